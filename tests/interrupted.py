"""A segmenter that is interrupted, for tests of what goes on where it was cut short."""


class Interrupted:
    """Beside a segmenter's class: fails after `left` batches, as if the process had been killed."""

    left = 10**9

    def __call__(self, images):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().__call__(images)
