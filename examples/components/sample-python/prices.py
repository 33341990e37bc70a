#!/usr/bin/env python3
"""A step in Python: adds up the lines of an order.

Flowline starts it and writes one line of JSON for each message; each answer is one line of JSON. Standard error
becomes the step's log. Only what comes with Python is needed.
"""

import json
import sys


def say(**line):
    print(json.dumps(line), flush=True)


def total(order):
    return sum(line["price"] * line.get("quantity", 1) for line in order["lines"])


def main():
    for line in sys.stdin:
        message = json.loads(line)
        try:
            order = message["body"]
            amount = total(order)
        except (KeyError, TypeError) as problem:
            # A repetition would fail in the same way: the message becomes a dead letter.
            say(fault={"kind": "reject", "message": f"this is not an order: {problem!r}"})
            continue
        say(log=f"order {order.get('id', message['id'])}: {amount}")
        say(emit={"body": {**order, "total": amount}})
        say(done=True)


if __name__ == "__main__":
    main()
