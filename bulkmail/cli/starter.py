"""The files of `bulkmail init`: a personalised newsletter to a local sink, with what receivers ask of bulk mail."""

from __future__ import annotations

MANIFEST = "newsletter.json"

_MANIFEST = """\
{
  "job": "newsletter",
  "message": {
    "from": "Example News <news@example.com>",
    "to": "{{ name }} <{{ email }}>",
    "subject": "{{ name }}, here is issue {{ issue }}",
    "html": {"file": "newsletter.html"},
    "text": {"file": "newsletter.txt"},
    "list_unsubscribe": {"url": "https://example.com/unsubscribe/{{ id }}", "one_click": true},
    "list_id": "news.example.com"
  },
  "defaults": {"name": "friend", "issue": "1"},
  "recipients": "recipients.csv",
  "relays": "smtp://127.0.0.1:2525",
  "limits": {"rate": "100/s", "connections": 5},
  "journal": "newsletter.journal"
}
"""

_HTML = """\
<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>Issue {{ issue }}</title></head>
<body>
<p>Hello {{ name }},</p>
<p>this is issue {{ issue }} of our news. <a href="https://example.com/news/{{ issue }}">Read it online</a>.</p>
{% if city %}<p>We will be in {{ city }} soon: come and see us.</p>
{% endif %}<p><a href="https://example.com/unsubscribe/{{ id }}">Unsubscribe</a></p>
</body>
</html>
"""

_TEXT = """\
Hello {{ name }},

this is issue {{ issue }} of our news. Read it online: https://example.com/news/{{ issue }}
{% if city %}
We will be in {{ city }} soon: come and see us.
{% endif %}
Unsubscribe: https://example.com/unsubscribe/{{ id }}
"""

_RECIPIENTS = """\
email,name,id,city
ann@example.com,Ann,1001,Hamburg
bob@example.net,Bob & Sons,1002,
chloe@example.org,Chloé,1003,Lyon
"""

FILES = {
    MANIFEST: _MANIFEST,
    "newsletter.html": _HTML,
    "newsletter.txt": _TEXT,
    "recipients.csv": _RECIPIENTS,
}
