#!/usr/bin/env node
'use strict';
// The Nodemailer peer. Default: its pooled transport, fed whenever it is idle, as its manual advises.
// With --low-level: SMTPConnection alone, N of them, without pool and composer.
// NODE_PATH must lead to nodemailer. The clock runs from before the first connect to the reply to the last message.
const fs = require('node:fs');
const { parseArgs } = require('node:util');
const nodemailer = require('nodemailer');
const SMTPConnection = require('nodemailer/lib/smtp-connection');

const text = { type: 'string' };
const { values } = parseArgs({
    options: { host: text, port: text, connections: text, messages: text, message: text, 'low-level': { type: 'boolean' } }
});
const total = Number(values.messages);
const server = { host: values.host, port: Number(values.port), secure: false, ignoreTLS: true, name: 'peer.example.test' };
const content = fs.readFileSync(values.message);
const started = process.hrtime.bigint();
let taken = 0;
let accepted = 0;

function nextEnvelope() {
    return { from: 'news@example.test', to: [`user${taken++}@example.test`] };
}

function settled(error) {
    if (error) {
        console.error(error);
        process.exit(1);
    }
    if (++accepted === total) {
        const seconds = Number(process.hrtime.bigint() - started) / 1e9;
        console.log(JSON.stringify({ messages: total, seconds }));
    }
}

function runPool() {
    const pool = nodemailer.createTransport({
        ...server, pool: true, maxConnections: Number(values.connections), maxMessages: Infinity
    });
    pool.on('idle', () => {
        while (taken < total && pool.isIdle()) {
            pool.sendMail({ envelope: nextEnvelope(), raw: content }, error => {
                settled(error);
                if (accepted === total) {
                    pool.close();
                }
            });
        }
    });
}

function runConnection() {
    const connection = new SMTPConnection(server);
    const more = () => {
        if (taken === total) {
            connection.quit();
            return;
        }
        connection.send(nextEnvelope(), content, error => {
            settled(error);
            more();
        });
    };
    connection.on('error', settled);
    connection.connect(more);
}

if (values['low-level']) {
    for (let i = Math.min(total, Number(values.connections)); i > 0; i--) {
        runConnection();
    }
} else {
    runPool();
}
