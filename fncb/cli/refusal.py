"""What the program does not do, and the status that it exits with."""

DIFFERENCES = 1
WRONG_USAGE = 2
UNREADABLE = 3
DAMAGED = 4


class Refusal(Exception):
    """A sentence for people, and the exit status of the program."""

    def __init__(self, sentence: str, status: int):
        super().__init__(sentence)
        self.status = status
