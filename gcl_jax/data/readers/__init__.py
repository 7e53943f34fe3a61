"""One file per data set; `gcl_jax.data.load` finds it by its name.

Every module has one function `read(path, ...) -> Dataset`. Its arguments are
the settings of the data section that it uses, under the same names; its
defaults hold where a setting is absent or blank. A `read` without the argument
`path` makes its images in memory and needs no files.
"""
