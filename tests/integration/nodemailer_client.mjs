// npm's nodemailer: sends each mail of {options, mails: [{envelope, raw: base64}]}, read from standard input, over one
// connection. The first argument is the folder of its modules.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const { createTransport } = createRequire(process.argv[2])("nodemailer");
const { options, mails } = JSON.parse(readFileSync(0));
const transport = createTransport({ ...options, pool: true, maxConnections: 1 });
for (const { envelope, raw } of mails) {
  await transport.sendMail({ envelope, raw: Buffer.from(raw, "base64") });
}
transport.close();
