"""Text from files as it can be shown: nothing in it moves a cursor, changes a colour or hides what is there."""


def printable(text: object) -> str:
    r"""Text on one line, in which whatever is no visible character stands as its escape sequence.

    Args:
      text: what is not text is shown as `str` shows it.

    Example:
      >>> print(printable("val_loss \x1b[2J"), printable("Zürich\n"), printable("\ud800\u202e"))
      val_loss \x1b[2J Zürich\n \ud800\u202e
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
