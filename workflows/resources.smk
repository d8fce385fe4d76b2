# With `retries` in a profile, each attempt is a job of its own that asks for more than the last.


def growing(amount):
    """A resource that grows with each attempt: memory in MB, or minutes."""
    return lambda wildcards, attempt: amount * attempt
