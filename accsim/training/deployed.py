"""A trained network as a device gets it: integer words, their exponents, running statistics."""

import json
from collections.abc import Collection
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import IO, final
from zipfile import BadZipFile

import numpy as np

from accsim.network import Network
from accsim.numerics import Numerics
from accsim.training.base import count_correct
from accsim.training.fixed_network import FixedNetwork, Statistics
from accsim.training.parameters import Map, Stored, initial, layer_of


@final
@dataclass
class Deployed:
    """One network, the words of its parameters in the format of the student's masters."""

    network: Network
    numerics: Numerics
    parameters: dict[str, Stored] = field(repr=False)
    exponents: dict[str, int] = field(repr=False)  # of maps and errors
    running: dict[int, tuple[np.ndarray, np.ndarray]] = field(repr=False)  # by node: mean, variance

    @classmethod
    def of(cls, executor: FixedNetwork, parameters: dict[str, Stored]) -> "Deployed":
        """What `executor` runs with `parameters`, as it is now."""
        now = executor.fork(0)
        words = {name: stored.copy() for name, stored in parameters.items()}
        return cls(now.network, now.numerics, words, now.exponents, now.running)

    def renewed(self, layers: Collection[str], key: int) -> "Deployed":
        """The same network with the words of `layers` as at the random start of this `key`.

        Their exponents are found anew; running statistics are kept, for batches move them on.
        """
        fresh = initial(self.network, self.numerics, key)
        words = {
            name: fresh[name] if layer_of(name) in layers else stored
            for name, stored in self.words().items()
        }
        kept = {at: found for at, found in self.exponents.items() if layer_of(at) not in layers}
        return replace(self, parameters=words, exponents=kept)

    def words(self) -> dict[str, Stored]:
        """The parameters, to train on; their `copy`."""
        return {name: stored.copy() for name, stored in self.parameters.items()}

    def executor(self, key: int) -> FixedNetwork:
        """A network that starts from these exponents and running statistics."""
        executor = FixedNetwork(self.network, self.numerics, key)
        executor.start_from(self)
        return executor

    def correct(self, images: Map, labels: np.ndarray) -> dict[str, int]:
        """Correctly classified images, as by `Learner.correct`: 'deployed', frozen as it is."""
        executor = self.executor(0)
        count = count_correct(executor, self.parameters, images, labels, Statistics.RUNNING)
        return {"deployed": count}

    def write(self, file: IO[bytes]) -> None:
        """As a .npz of integer arrays; the same network makes the same file.

        ``words/NAME`` with ``frac_bits/NAME`` of every parameter, ``exponents/MAP``, and
        ``running_mean/LAYER`` with ``running_variance/LAYER`` of every batch norm; ``choices`` is
        JSON text that tells the network and the formats.
        """
        arrays = {"choices": np.array(json.dumps(_choices(self.network, self.numerics)))}
        for name, stored in self.parameters.items():
            arrays[f"words/{name}"] = stored.values
            arrays[f"frac_bits/{name}"] = np.array(stored.frac_bits)
        for name, exponent in self.exponents.items():
            arrays[f"exponents/{name}"] = np.array(exponent)
        for index, (mean, variance) in self.running.items():
            name = self.network.nodes[index].name
            arrays[f"running_mean/{name}"], arrays[f"running_variance/{name}"] = mean, variance
        np.savez(file, **arrays)  # type: ignore[arg-type]

    @classmethod
    def read(cls, path: Path, network: Network, numerics: Numerics) -> "Deployed":
        """From a file that `write` wrote, of the same `network` in the same formats.

        Raises ValueError for any other file, OSError for one that cannot be read.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
            choices = json.loads(str(arrays["choices"]))
        except (ValueError, KeyError, EOFError, AttributeError, TypeError, BadZipFile) as error:
            raise ValueError(
                f"start must be the network.npz of a run, but {path} is damaged or another file"
            ) from error
        wanted = _choices(network, numerics)
        other = [name for name in wanted if wanted[name] != choices.get(name)]
        if other:
            raise ValueError(
                f"start {path} must be of the same {' and '.join(other)} as the workload"
            )
        places = {node.name: node.index for node in network.nodes}

        def named(kind: str) -> dict[str, np.ndarray]:
            mark = f"{kind}/"
            return {key[len(mark) :]: each for key, each in arrays.items() if key.startswith(mark)}

        frac_bits, variances = named("frac_bits"), named("running_variance")
        parameters = {
            name: Stored(
                words,
                int(frac_bits[name]),
                int(np.abs(words.astype(np.int64)).max()),
                np.zeros(words.size, np.int16) if numerics.error_feedback else None,
            )
            for name, words in named("words").items()
        }
        running = {
            places[name]: (mean, variances[name]) for name, mean in named("running_mean").items()
        }
        exponents = {name: int(exponent) for name, exponent in named("exponents").items()}
        return cls(network, numerics, parameters, exponents, running)


def _choices(network: Network, numerics: Numerics) -> dict[str, str]:
    """What must be the same for words to mean the same, in words."""
    formats = {choice.name: str(getattr(numerics, choice.name)) for choice in fields(numerics)}
    return {"network": f"{network.image}: {network.layers!r}", **formats}
