#!/usr/bin/env node
'use strict';
// Nodemailer as a composer: the templates are split once, each recipient's values are put between, and MailComposer makes
// the message. Dots are not doubled: Nodemailer does that while it sends. Prints one JSON line: seconds, cpu, bytes.
const fs = require('node:fs');
const path = require('node:path');
const { parseArgs } = require('node:util');
const MailComposer = require('nodemailer/lib/mail-composer');

const text = { type: 'string' };
const { values } = parseArgs({ options: { folder: text, count: text, keep: text } });
const job = JSON.parse(fs.readFileSync(path.join(values.folder, 'job.json'), 'utf8'));
const Composer = MailComposer.default || MailComposer;
const CHECKED = 5;
const ESCAPES = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&#34;', "'": '&#39;' };

function escapeHtml(value) {
    return value.replace(/[&<>"']/g, character => ESCAPES[character]);
}

// Odd pieces are names.
function compile(source, escape) {
    const pieces = source.split(/\{\{ (\w+) \}\}/);
    return row => pieces.map((piece, at) => (at % 2 ? escape(row[piece]) : piece)).join('');
}

const makeText = compile(job.text, value => value);
const makeHtml = compile(job.html, escapeHtml);
const makeSubject = compile('Notes for {{ name }}', value => value);

function build(row) {
    const mail = {
        from: 'Example News <news@example.test>',
        to: { name: row.name, address: row.email },
        subject: makeSubject(row),
        date: new Date('Fri, 21 Nov 2025 09:00:00 +0000'),
        messageId: `<${row.id}@example.test>`,
        text: makeText(row),
        html: makeHtml(row)
    };
    return new Promise((resolve, reject) => {
        new Composer(mail).compile().build((error, message) => (error ? reject(error) : resolve(message)));
    });
}

async function main() {
    for (let at = 0; at < CHECKED; at++) {
        const made = await build(job.recipients[at]);
        if (values.keep) {
            fs.writeFileSync(path.join(values.keep, `${at}.eml`), made);
        }
    }
    const count = Number(values.count);
    const before = process.cpuUsage();
    const started = process.hrtime.bigint();
    let bytes = 0;
    for (let at = 0; at < count; at++) {
        bytes += (await build(job.recipients[at % job.recipients.length])).length;
    }
    const seconds = Number(process.hrtime.bigint() - started) / 1e9;
    const used = process.cpuUsage(before);
    console.log(JSON.stringify({ seconds, cpu: (used.user + used.system) / 1e6, bytes }));
}

main().catch(error => {
    console.error(error);
    process.exit(1);
});
