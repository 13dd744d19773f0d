"""What a person sees while stages work: plain lines that say the stage, how far it is and how long it will take."""


def say(stage: str, message: str) -> None:
    """Print one line at once (stages run behind DVC's pipe, where a redrawn bar would be noise)."""
    print(f"[{stage}] {message}", flush=True)


def duration(seconds: float) -> str:
    """Seconds in words: ``45 s``, ``3 min 20 s``, ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def compact(value: float) -> str:
    """A figure with the digits that a person compares: ``23.46``, ``0.0123``."""
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.4f}"
