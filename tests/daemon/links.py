"""Upstreams of given rates for strategies to choose among, under a clock of their own."""

from icnblocks.limits import MIB

MODEL = "acme/llm"


class Links:
    """Upstreams that each give blocks of a MiB one after the other, at a rate of their own."""

    def __init__(self, strategy, **rates):
        self.strategy = strategy
        self.rates = {f"http://{name}": rate for name, rate in rates.items()}
        self.now = 0.0
        self.free = dict.fromkeys(self.rates, 0.0)
        self.coming, self.asked = [], 0
        self.given = dict.fromkeys(self.rates, 0)

    @property
    def route(self):
        return tuple(self.rates)

    def ask(self, upstream):
        asked = self.strategy.asked(upstream, MIB, self.now, MODEL)
        begin = max(self.free[upstream], self.now)
        self.free[upstream] = begin + MIB / self.rates[upstream]
        self.coming.append((self.free[upstream], self.asked, asked))
        self.asked += 1
        return asked

    def pull(self, blocks):
        """Ask for so many blocks as there is room, until all came; the seconds it took."""
        began, left, came = self.now, blocks, 0
        while came < blocks:
            while left:
                behind = (left - 1) * MIB
                upstream = self.strategy.choose(self.route, (), self.now, MIB, behind, MODEL)
                if not self.strategy.may_ask(upstream, MIB, self.now, MODEL):
                    break
                self.ask(upstream)
                left -= 1
            came += self.step()
        return self.now - began

    def step(self):
        first = min(self.coming, key=lambda each: each[:2])
        self.coming.remove(first)
        self.now = max(self.now, first[0])
        self.strategy.delivered(first[2], self.now)
        self.given[first[2].upstream] += 1
        return 1
