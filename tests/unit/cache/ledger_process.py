"""Run as a separate process: uses a ledger as commanded, one command a line."""

from __future__ import annotations

import sys

from hffs.cache.budget.ledger import Ledger


def main(path: str, limit: str) -> None:
    ledger = Ledger(path, int(limit) or None)
    for line in sys.stdin:
        command, *numbers = line.split()
        if command == "reserve":
            answer: object = ledger.reserve(int(numbers[0]))
        elif command == "settle":
            answer = ledger.settle(int(numbers[0]), int(numbers[1]))
        elif command == "alone":
            answer = ledger.is_alone()
        elif command == "churn":  # many operations, concurrently with other processes
            for _ in range(int(numbers[0])):
                assert ledger.reserve(7) == 0
                ledger.settle(7, 3)
            answer = "churned"
        else:
            answer = ledger.read()
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
