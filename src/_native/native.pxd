# What the Cython modules see of the C++ headers.

from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libcpp cimport bool as cbool
from libcpp.vector cimport vector


cdef extern from "text/features.hpp" namespace "dspex" nogil:
    cdef cppclass NgramRange:
        uint32_t min_n
        uint32_t max_n

    cdef cppclass TextOptions:
        NgramRange ngrams
        float word_weight
        float bigram_weight
        float skip_weight
        float char_weight
        float char_power


cdef extern from "model/view.hpp" namespace "dspex" nogil:
    cdef cppclass IndexEntry:
        uint32_t tag
        uint32_t row

    size_t row_stride(size_t columns)
    size_t row_lanes(size_t columns)

    cdef cppclass ModelView:
        const IndexEntry* index
        size_t slots                # a power of two
        const uint8_t* rows         # [row_count, row_stride(columns)]
        size_t row_count
        size_t columns
        const float* bias           # [columns]
        const float* dense          # [dense_width, columns]
        size_t dense_width
        TextOptions text
        void validate() except +    # invalid_argument -> ValueError


cdef extern from "model/scorer.hpp" namespace "dspex" nogil:
    cdef cppclass Contribution:
        const char* text
        size_t bytes
        const char* first
        size_t first_bytes
        size_t field
        uint32_t kind
        const float* weights
        float norm2
        uint32_t row

    ctypedef void (*ContributionSink)(void* context, const Contribution& c)
    void visit_contributions(const ModelView& model, size_t field, const void* text, size_t size,
                             unsigned unit_bytes, cbool unfold, ContributionSink sink, void* context) except +


cdef extern from "model/heads.hpp" namespace "dspex" nogil:
    cdef enum class AnswerKind(uint8_t):
        choice
        binary
        multilabel
        number

    cdef cppclass AnswerHead:
        AnswerKind kind
        uint32_t first
        uint32_t columns
        float threshold
        double scale
        double offset
        double low
        double high


cdef extern from "model/gate.hpp" namespace "dspex" nogil:
    const size_t gate_features
    const size_t gate_floats

    cdef cppclass Evidence:
        float positive
        float largest
        float squares
        float positives
        float rows

    cdef cppclass Familiar:
        float known_words
        float unknown_words
        float known_pairs
        float unknown_pairs

    cdef cppclass Standing:
        size_t column
        float sign
        float top
        float margin

    Standing standing(const AnswerHead& head, const float* logits)
    float gate_log_odds(const float* gate, const Standing& at, float confidence, const Evidence& evidence,
                        const Familiar& familiar, float* features)
    float answer_head(const AnswerHead& head, const Standing* at, float* values, int32_t& pick)


cdef extern from "pool/clock.hpp" namespace "dspex" nogil:
    int64_t now_ns()                # monotonic


cdef extern from "run/answerer.hpp" namespace "dspex" nogil:
    cdef cppclass TextView:
        const void* data            # code points of 1, 2 or 4 bytes
        size_t size                 # code points
        uint32_t unit

    cdef cppclass Answerer:
        const ModelView* model
        const AnswerHead* heads
        size_t head_count
        const float* gate           # [heads, gate_floats], or NULL
        float floor                 # familiarity below which the score is 0
        float* features             # [heads, gate_features], or NULL
        size_t answer_floats()      # [columns] values, [heads] int32 picks, confidence, score, familiarity
        cbool answer(const TextView* texts, size_t text_count, const float* dense, float* sums, float* out)


cdef extern from "model/checksum.hpp" namespace "dspex" nogil:
    uint64_t checksum64_c "dspex::checksum64"(const void* data, size_t size)


cdef extern from "model/corpus.hpp" namespace "dspex" nogil:
    cdef cppclass CorpusOptions:
        TextOptions text
        uint32_t min_pair_df
        uint32_t max_units

    cdef cppclass Corpus:
        Corpus(CorpusOptions options) except +
        void count_text "count"(uint32_t row, size_t field, const void* text, size_t size, unsigned unit_bytes) except +
        void add_text(size_t field, const void* text, size_t size, unsigned unit_bytes) except +
        void end_row() except +
        void finish_count(size_t rows) except +
        void finish() except +
        size_t units()
        size_t features()


cdef extern from "model/solver.hpp" namespace "dspex" nogil:
    cdef enum class Loss(uint8_t):
        hinge
        squared
        logistic
        softmax

    cdef cppclass DenseView:
        const float* values         # [rows, width], the last column all 1
        size_t width


cdef extern from "model/stack.hpp" namespace "dspex" nogil:
    cdef enum class HeadKind(uint8_t):
        softmax
        sigmoid
        number

    cdef cppclass Stack:
        vector[double] coefficient
        double bias


cdef extern from "model/evidence.hpp" namespace "dspex" nogil:
    cdef cppclass RowEvidence:
        Evidence evidence
        Familiar familiar


cdef extern from "model/trainer.hpp" namespace "dspex" nogil:
    cdef cppclass Learner:
        Loss loss
        float c

    cdef cppclass HeadSpec:
        HeadKind kind
        size_t columns
        vector[float] targets       # [rows, columns]
        vector[float] weights       # [rows]
        vector[Learner] learners
        vector[uint8_t] group_of_row  # [rows], or empty
        size_t groups

    cdef cppclass HeadFit:
        vector[vector[float]] held_out
        vector[RowEvidence] evidence
        vector[vector[float]] novel
        vector[RowEvidence] novel_evidence
        vector[uint32_t] epochs
        Stack stack

    cdef cppclass TrainOptions:
        size_t folds
        size_t threads
        uint64_t seed
        uint32_t max_epochs
        float tolerance
        cbool evidence

    cdef cppclass Trainer:
        Trainer(const Corpus& corpus, DenseView dense, vector[uint8_t] fold_of_row, vector[HeadSpec] heads,
                TrainOptions options) except +
        void start() except +
        cbool wait_for(double seconds) except +
        void cancel()
        double progress()
        vector[HeadFit] fits


cdef extern from "model/export.hpp" namespace "dspex" nogil:
    cdef cppclass FloatModel:
        size_t columns
        vector[uint64_t] hashes
        vector[float] norm2
        vector[float] weights       # [rows, columns]
        vector[float] bias
        vector[float] dense

    cdef cppclass PackedModel:
        vector[IndexEntry] index
        vector[uint8_t] rows

    FloatModel fold_model(const Corpus& corpus, size_t dense_width, const vector[HeadSpec]& heads,
                          const vector[HeadFit]& fits) except +
    PackedModel pack_model(size_t columns, const vector[uint64_t]& hashes, const vector[float]& norm2,
                           const vector[float]& weights) except +


cdef extern from "model/refine.hpp" namespace "dspex" nogil:
    cdef cppclass RefineHead:
        Loss loss
        size_t columns
        vector[float] targets
        vector[float] weights

    cdef cppclass Refiner:
        Refiner(const ModelView& model, const uint64_t* hashes, size_t trained_rows) except +
        void add_text(size_t field, const void* text, size_t size, unsigned unit_bytes) except +
        void end_row() except +
        FloatModel run(const vector[RefineHead]& heads, DenseView dense, float c, uint64_t seed) except +
