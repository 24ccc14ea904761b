// npm's smtp-server, which takes everything and forgets it: receivers.mjs MODULES PORT
import { createRequire } from "node:module";

const [modules, port] = process.argv.slice(2);
const { SMTPServer } = createRequire(modules)("smtp-server");

const server = new SMTPServer({
  authOptional: true,
  disabledCommands: ["STARTTLS", "AUTH"],
  disableReverseLookup: true,
  onData(stream, session, done) {
    stream.on("end", done);
    stream.resume();
  },
});
server.listen(Number(port), "127.0.0.1");
