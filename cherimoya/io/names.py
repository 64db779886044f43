"""The other names of chromosomes: `1` for `chr1`, `MT` for `chrM`, or those of a table, where the user allows them.

A genome's own names are the ones that count: names in other files are turned into them as the files are opened.
"""

import os
from collections.abc import Iterable, Mapping

from cherimoya.errors import InputError
from cherimoya.io._files import read_bytes

Aliases = bool | str | os.PathLike | Mapping[str, str]

REMEDY = "set chrom_aliases to true (1 is chr1, MT is chrM) or to a table of names, or rename the chromosomes of one"
"""What to do where two files name chromosomes differently."""

_MITOCHONDRION = frozenset({"m", "mt", "mito"})


def bare_name(name: str) -> str:
	"""What is left of a name without `chr` and without its case; the mitochondrion is `mt` by any of its names."""
	bare = str(name).lower().removeprefix("chr")
	return "mt" if bare in _MITOCHONDRION else bare


class ChromNames:
	"""The names of a genome's chromosomes, and the other names that they may have elsewhere.

	Parameters
	----------
	chroms: iterable of str
		The genome's names.
	aliases: bool, mapping of str to str, or path, default False
		False: no other names. True: names that differ only in the prefix `chr`, in case, or as M, MT and Mito do. A
		mapping: each key and its value name one chromosome. A path: a text file of tab-separated columns, each line
		the names of one chromosome, lines with # skipped. With a mapping or a file nothing else is taken for the same.
	source: str, default "the genome"
		The genome's file, for messages.

	Raises
	------
	InputError
		Two chromosomes of the genome share a name, or the file cannot be used.
	"""

	def __init__(self, chroms: Iterable[str], aliases: Aliases = False, *, source: str = "the genome") -> None:
		self.source = source
		self._own = dict.fromkeys(str(chrom) for chrom in chroms)
		self._bare: dict[str, str] = {}
		self._given: dict[str, str] = {}
		if aliases is True:
			for chrom in self._own:
				self._claim(self._bare, bare_name(chrom), chrom, "chrom_aliases")
		elif aliases is not False and aliases is not None:
			mapping = isinstance(aliases, Mapping)
			place = "chrom_aliases" if mapping else os.fspath(aliases)
			rows = [[str(name) for name in row] for row in (aliases.items() if mapping else _read_table(place))]
			for names in rows:
				self._link(names, place)
			if rows and not any(name in self._own for names in rows for name in names):
				raise InputError(
					f"{place}: none of its names is a chromosome of {source}; one name in each line must be (the first "
					f"ones are {', '.join(rows[0][:3])} and {', '.join([*self._own][:3])})"
				)

	@property
	def active(self) -> bool:
		"""Whether any name may stand for another."""
		return bool(self._bare or self._given)

	def _link(self, names: list[str], place: str) -> None:
		"""Note that names mean one chromosome; those that the genome does not know at all are of no use."""
		own = [name for name in dict.fromkeys(names) if name in self._own]
		if len(own) > 1:
			raise InputError(
				f"{place}: {own[0]!r} and {own[1]!r} are both chromosomes of {self.source}, so they cannot be names of "
				"one; remove the line"
			)
		for name in names if own else ():
			if name not in self._own:
				self._claim(self._given, name, own[0], place)

	def _claim(self, table: dict[str, str], name: str, chrom: str, place: str) -> None:
		"""Note a name of a chromosome; InputError when another one has it."""
		if table.setdefault(name, chrom) != chrom:
			raise InputError(
				f"{place}: {table[name]!r} and {chrom!r} of {self.source} both go by the name {name!r}; give "
				"chrom_aliases as a table in which each name has one chromosome, or as false"
			)

	def resolve(self, name: str) -> str:
		"""The genome's name of a chromosome; the name itself where the genome does not know it."""
		if name in self._own:
			return name
		return self._given.get(name) or (self._bare.get(bare_name(name)) if self._bare else None) or name

	def renaming(self, names: Iterable[str], source: str) -> dict[str, str]:
		"""The genome's name for each name of another file.

		Parameters
		----------
		names: iterable of str
			The names in the file.
		source: str
			The file, for messages.

		Raises
		------
		InputError
			Two names of the file would become one chromosome.
		"""
		found: dict[str, str] = {}
		first: dict[str, str] = {}
		for name in map(str, names):
			chrom = found[name] = self.resolve(name)
			if first.setdefault(chrom, name) != name:
				raise InputError(
					f"{source}: has both {first[chrom]!r} and {name!r}, which chrom_aliases takes for one chromosome "
					f"({chrom!r} of {self.source}); rename one of them, or set chrom_aliases to false"
				)
		return found


def alike(ours: Iterable[str], theirs: Iterable[str]) -> bool:
	"""Whether two sets of names have none in common, but would have with other spellings: `1` and `chr1`."""
	ours, theirs = set(ours), set(theirs)
	return not ours & theirs and bool(set(map(bare_name, ours)) & set(map(bare_name, theirs)))


def _read_table(path: str) -> list[list[str]]:
	"""The names on each line of a file of aliases."""
	try:
		lines = read_bytes(path, what="chrom_aliases").decode("utf-8").splitlines()
	except UnicodeDecodeError:
		raise InputError(f"{path}: is not a text file; chrom_aliases is a table of names, separated by tabs") from None
	found = []
	for number, line in enumerate(lines, start=1):
		if not line.strip() or line.startswith("#"):
			continue
		names = [field.strip() for field in line.split("\t") if field.strip()]
		if len(names) < 2:
			raise InputError(
				f"{path}: line {number} has one name ({line.strip()!r}); write names of one chromosome, separated by "
				"tabs"
			)
		found.append(names)
	if not found:
		raise InputError(f"{path}: holds no names; write two names of one chromosome a line, separated by tabs")
	return found
