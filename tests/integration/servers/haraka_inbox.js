// Haraka's plugin for the tests: logins, refusals and deliveries into a Maildir. Options: config/inbox.json.
'use strict';
const fs = require('fs');
const path = require('path');

exports.register = function () {
    this.inherits('auth/auth_base');
    this.options = this.config.get('inbox.json');
};

exports.hook_capabilities = function (next, connection) {
    if (this.options.login && (connection.tls.enabled || !this.options.tls)) {
        const methods = ['PLAIN', 'LOGIN', 'CRAM-MD5'];
        connection.capabilities.push(`AUTH ${methods.join(' ')}`);
        connection.notes.allowed_auth_methods = methods;
    }
    next();
};

exports.get_plain_passwd = function (user, connection, callback) {
    connection.notes.auth_fails = -20; // auth_base makes whoever errs wait for 2 ** this many seconds
    callback(user === this.options.user ? this.options.password : null);
};

exports.hook_mail = function (next, connection, [sender]) {
    if (this.options.login && !connection.notes.auth_user) return next(DENY, 'log in first');
    if (sender.address.startsWith('refused')) return next(DENY, 'no mail from this sender');
    next();
};

exports.hook_rcpt = function (next, connection, [recipient]) {
    if (recipient.address.startsWith('unknown')) return next(DENY, 'no such user');
    if (recipient.address.startsWith('later')) return next(DENYSOFT, 'come again');
    next(recipient.host === 'example.test' ? OK : DENY);
};

exports.hook_data_post = function (next, connection) {
    const subject = connection.transaction.header.get('Subject');
    if (subject.includes('refuse')) return next(DENY, 'content refused');
    next();
};

exports.hook_queue = function (next, connection) {
    const { mail_from, rcpt_to, message_stream, uuid } = connection.transaction;
    message_stream.get_data((content) => {
        rcpt_to.forEach((to, index) => {
            const name = `${Date.now()}.${uuid}-${index}.test`;
            const top = `Return-Path: <${mail_from.address}>\r\nDelivered-To: ${to.address}\r\n`;
            const written = path.join(this.options.mail, 'tmp', name);
            fs.writeFileSync(written, Buffer.concat([Buffer.from(top), content]));
            fs.renameSync(written, path.join(this.options.mail, 'new', name));
        });
        next(OK, 'kept');
    });
};

// Where it goes for those who have logged in.
exports.hook_queue_outbound = exports.hook_queue;
