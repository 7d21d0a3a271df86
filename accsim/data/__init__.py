"""Data sets: found on disk, downloaded or generated; decoded once into uint8 arrays."""

from accsim.data.base import DataError, Dataset
from accsim.data.search import available, load, load_folder

__all__ = ["DataError", "Dataset", "available", "load", "load_folder"]
