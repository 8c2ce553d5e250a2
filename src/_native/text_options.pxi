# Shared by the extension modules: the text options of a model's description.

from native cimport TextOptions


cdef TextOptions text_options(dict text) except *:
    cdef TextOptions options
    options.ngrams.min_n, options.ngrams.max_n = text["min_n"], text["max_n"]
    options.word_weight, options.bigram_weight = text["word_weight"], text["bigram_weight"]
    options.skip_weight, options.char_weight = text["skip_weight"], text["char_weight"]
    options.char_power = text["char_power"]
    return options
