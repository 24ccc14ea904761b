#!/usr/bin/env python3
"""Writes made-up subscribers, the same ones every time, to subscribers.jsonl beside this file.

    make_subscribers.py [N]      5000 if not given; a line each: email, id, name, city, member, points

Some names hold letters beyond ASCII, quotes, commas or what HTML gives a meaning; some rows lack what the manifest's
`defaults` give.
"""

import hashlib
import json
import sys
from pathlib import Path

FIRST = ["Ann", "Bob", "José", "Zoë", "Łukasz", "Анна", "田中", "Siobhán", "Jean-Luc", "Fatma", "Åsa", "Ibrahim"]
LAST = ["Smith", "O'Hara", "Müller", "García", "Nowak", "Ng", "de la Cruz", "Öztürk", "Lee", "Papadopoulos"]
ODD = ['Dwayne "The Rock" Johnson', "Smith, Jane", "Salt & Pepper", "Bob <3 mail", "  Max  ", "Dr. J. R. R. Doe (home)"]
CITIES = ["Springfield", "Köln", "São Paulo", "Łódź", "Reykjavík", "St. John's", "東京"]


def subscriber(number: int) -> dict[str, object]:
    """Subscriber `number`, from 1. The id stands for the address in links, so it must not be easy to guess."""
    name = (
        ODD[number // 20 % len(ODD)] if number % 20 == 0 else f"{FIRST[number % len(FIRST)]} {LAST[number % len(LAST)]}"
    )
    row: dict[str, object] = {
        "email": f"subscriber{number}@example.net",
        "id": hashlib.sha256(f"example {number}".encode()).hexdigest()[:16],
        "name": name,
        "city": CITIES[number % len(CITIES)],
        "member": number % 3 == 0,
        "points": number * 7 % 1000,
    }
    if number % 50 == 7:
        del row["name"]
    return row


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    out = Path(__file__).resolve().with_name("subscribers.jsonl")
    with out.open("w", encoding="utf-8") as file:
        for number in range(1, count + 1):
            file.write(json.dumps(subscriber(number), ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
