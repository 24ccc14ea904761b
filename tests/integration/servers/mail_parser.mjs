// npm's mailparser over many messages: one JSON list of base64 texts on standard input, a JSON list of what it made of
// each on standard output. The first argument is the folder of its modules.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const { simpleParser } = createRequire(process.argv[2])("mailparser");

function boxes(field) {
  return (field?.value ?? []).map(({ name, address }) => [name, address]);
}

const options = { skipHtmlToText: true, skipTextToHtml: true, skipImageLinks: true, skipTextLinks: true };
const out = [];
for (const text of JSON.parse(readFileSync(0, "utf8"))) {
  const mail = await simpleParser(Buffer.from(text, "base64"), options);
  out.push({
    subject: mail.subject ?? null,
    sender: boxes(mail.from),
    to: boxes(mail.to),
    cc: boxes(mail.cc),
    reply_to: boxes(mail.replyTo),
    message_id: mail.messageId ?? null,
    in_reply_to: mail.inReplyTo ?? null,
    references: [mail.references ?? []].flat(),
    date: mail.date?.toISOString() ?? null,
    priority: mail.headers.get("priority") ?? null,
    lines: mail.headerLines.map(({ line }) => line),
    text: mail.text ?? null,
    html: mail.html || null,
    attachments: mail.attachments.map((part) => ({
      name: part.filename ?? null,
      type: part.contentType,
      disposition: part.contentDisposition ?? null,
      cid: part.cid ?? null,
      related: Boolean(part.related),
      content: part.content.toString("base64"),
    })),
  });
}
process.stdout.write(JSON.stringify(out));
