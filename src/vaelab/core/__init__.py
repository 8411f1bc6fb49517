"""The vocabulary: records, units, errors, the config, and all reading and writing of files. Imports nothing above."""
