"""Do the tests notice a mistake? `tools/check_mutations.py` makes mistakes in the package and runs them.

operators       what is changed in a line: < into <=, + into -, a constant, a call that is left out, ...
mutants         all changes of a module that change what it does, a choice of them, and what their names are
overlay         an import of a module with another source, in this process and in those that it starts
trial           tests run on a module so changed, in a process of their own with limits of time and memory
equivalent.json mutants that no test can catch, each with its reason
"""
