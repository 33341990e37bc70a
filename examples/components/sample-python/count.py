#!/usr/bin/env python3
"""A polling trigger in Python: counts on with each poll.

What it remembers between polls is its snapshot. It becomes durable together with what it emits.
"""

import json
import os
import sys


def say(**line):
    print(json.dumps(line), flush=True)


def main():
    count = int(os.environ.get("COUNT", "10"))
    for line in sys.stdin:
        poll = json.loads(line)
        first = (poll.get("snapshot") or {}).get("next", 1)
        for number in range(first, first + count):
            say(emit={"body": {"number": number}})
        say(snapshot={"next": first + count})
        say(done=True)


if __name__ == "__main__":
    main()
