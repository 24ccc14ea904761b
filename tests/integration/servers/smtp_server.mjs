// npm's smtp-server, told what to do by a JSON object in the first argument:
//   {modules, options, user, password, token, store, key_file}
// It prints the port it listens on, then writes each message it takes into `store` as N.json, whole or not at all.
import { createRequire } from "node:module";
import { readFileSync, renameSync, writeFileSync } from "node:fs";

const { modules, options, user, password, token, store, key_file: keyFile } = JSON.parse(process.argv[2]);
const { SMTPServer } = createRequire(modules)("smtp-server");

function refusal(code, text) {
  return Object.assign(new Error(text), { responseCode: code });
}

let taken = 0;

function keep(session, content) {
  const { mailFrom, rcptTo } = session.envelope;
  const mail = {
    sender: mailFrom ? mailFrom.address : "",
    sender_args: mailFrom ? mailFrom.args : null,
    recipients: rcptTo.map((to) => to.address),
    content: content.toString("base64"),
    tls: Boolean(session.secure),
    user: session.user ?? null,
  };
  taken += 1;
  const file = `${store}/${String(taken).padStart(6, "0")}`;
  writeFileSync(`${file}.part`, JSON.stringify(mail));
  renameSync(`${file}.part`, `${file}.json`);
}

const pem = keyFile ? readFileSync(keyFile) : undefined;
const server = new SMTPServer({
  ...options,
  ...(pem ? { key: pem, cert: pem } : {}),
  onAuth(auth, session, done) {
    const known = {
      "XOAUTH2": () => auth.accessToken === token,
      "CRAM-MD5": () => auth.validatePassword(password),
    }[auth.method] ?? (() => auth.password === password);
    done(null, auth.username === user && known() ? { user } : { message: "wrong login", data: { status: "401" } });
  },
  onMailFrom(address, session, done) {
    done(address.address.startsWith("refused") ? refusal(550, "no mail from this sender") : null);
  },
  onRcptTo(address, session, done) {
    if (address.address.startsWith("unknown")) return done(refusal(550, "no such user"));
    done(address.address.startsWith("later") ? refusal(450, "come again") : null);
  },
  onData(stream, session, done) {
    const pieces = [];
    stream.on("data", (piece) => pieces.push(piece));
    stream.on("end", () => {
      const content = Buffer.concat(pieces);
      if (stream.sizeExceeded) return done(refusal(552, "too big"));
      if (/^Subject:.*refuse/m.test(content.toString("latin1"))) return done(refusal(554, "content refused"));
      keep(session, content);
      const verdicts = session.envelope.rcptTo.map((to) =>
        to.address.startsWith("full") ? refusal(552, "mailbox full") : "kept");
      done(null, options.lmtp ? verdicts : "kept");
    });
  },
});
server.on("error", (error) => process.stderr.write(`${error.message}\n`)); // of a connection: the server goes on
server.listen(0, "127.0.0.1", () => process.stdout.write(`${server.server.address().port}\n`));
