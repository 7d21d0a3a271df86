"""A unit's time by cause: whatever happens, the causes sum to the time that has passed."""


class Occupancy:
    """Picoseconds of one unit by cause; `enter` ends one cause and begins the next."""

    def __init__(self, env, cause="idle"):
        self._env = env
        self._cause = cause
        self._since_ps = 0
        self.ps_by_cause: dict[str, int] = {}

    def enter(self, cause: str) -> int:
        """Begin `cause` now; return the picoseconds of the cause that ends."""
        return self.enter_at(cause, self._env.now)

    def enter_at(self, cause: str, time_ps: int) -> int:
        """Begin `cause` at `time_ps`, not before the present cause began."""
        passed = time_ps - self._since_ps
        self.ps_by_cause[self._cause] = self.ps_by_cause.get(self._cause, 0) + passed
        self._cause, self._since_ps = cause, time_ps
        return passed
