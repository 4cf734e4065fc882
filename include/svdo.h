/*
 * svdo: run networks trained by sparse variational dropout from .svdo files.
 *
 *     cargo build --release -p svdo-c      gives target/release/libsvdo_c.a and libsvdo_c.so
 *     cc app.c -Iinclude target/release/libsvdo_c.a -lm -lpthread -ldl
 *
 * Ownership: the library owns models, from svdo_load to svdo_free; everything else is the caller's.
 * svdo_run allocates nothing unless it fails.
 *
 * Predictors, from svdo_predictor_load to svdo_predictor_free, are the same for predictions under the
 * posterior, of files that hold variances.
 *
 * Threads: a model never changes and serves any number of threads at once, each with a workspace of
 * its own. svdo_free must come after the last use. Messages belong to the thread.
 *
 * Errors: functions that can fail return a svdo_status; svdo_message then says what is wrong in one
 * line. Output arguments are as they were after a failure, except *model, which is NULL, and output,
 * which may be part-filled. No Rust panic unwinds into C: it becomes SVDO_INTERNAL, or ends the
 * process in a build with panic=abort.
 */
#ifndef SVDO_H
#define SVDO_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum svdo_status {
    SVDO_OK = 0,
    SVDO_INVALID_ARGUMENT = 1,    /* NULL, unaligned, too long */
    SVDO_INVALID_FILE = 2,        /* damaged, or no .svdo file */
    SVDO_UNSUPPORTED_VERSION = 3, /* written by a newer svdo */
    SVDO_LIMIT = 4,               /* the file claims more than its size can hold */
    SVDO_WORKSPACE_TOO_SMALL = 5,
    SVDO_INTERNAL = 6,            /* a defect of svdo */
    SVDO_NOT_FINITE = 7           /* a NaN or an infinity among inputs or outputs */
} svdo_status;

/* A network ready to run. */
typedef struct svdo_model svdo_model;

/* A sample: [channels, height, width], the last fastest; vectors have height and width 1. */
typedef struct svdo_shape {
    size_t channels, height, width;
} svdo_shape;

/* Reads a .svdo file from memory, which may be freed afterwards. Uses the best instruction set of
 * the CPU. On success *model is to be given to svdo_free, else it is NULL. */
int svdo_load(const void *bytes, size_t length, svdo_model **model);

/* The same with the layers in 8 bits that are faster so, of a file made by svdo-compress --int8;
 * SVDO_INVALID_ARGUMENT for others. */
int svdo_load_int8(const void *bytes, size_t length, svdo_model **model);

/* The same for a stream, as of sound or tokens: a network that looks back alone, by recurrent cells or causal
 * attention. A sample is a part of the stream, of `steps` steps where sequences have any length up to the longest,
 * else of as many as the network takes (`steps` then does not matter). What the next part goes on from stands in
 * the workspace: a stream begins with one of zeros, has it for itself, and may be stopped and gone on with at any
 * time. svdo_run with several samples runs them one after the other. A part beyond the longest sequence that
 * attention looks back over is SVDO_INVALID_ARGUMENT and changes nothing; other networks are refused so, too. */
int svdo_load_stream(const void *bytes, size_t length, size_t steps, svdo_model **model);

/* Frees a model; NULL is allowed. */
void svdo_free(svdo_model *model);

/* Steps of the longest sequence, where shorter ones are taken, too (formats/network.md); 0 where inputs
 * have one size, and for NULL. */
size_t svdo_longest(const svdo_model *model);

/* The model for sequences of so many steps, at least 1 and at most the longest; svdo_load gives that of the
 * longest. It has shapes of its own and is to be given to svdo_free, in any order; weights are shared but for those of
 * convolutions over several steps. A workspace of the model that it came from serves it, too. */
int svdo_at(const svdo_model *model, size_t steps, svdo_model **other);

/* What a sample of the input and of the output is; all zero for NULL. */
svdo_shape svdo_input_shape(const svdo_model *model);
svdo_shape svdo_output_shape(const svdo_model *model);

/* The name of a class, UTF-8, as long as the model lives; NULL if the file has none of it. */
const char *svdo_class_name(const svdo_model *model, size_t class_number);

/* Bytes of a workspace with which `batch` samples run at a time, side by side where that is faster.
 * Less runs fewer at a time; the least is that for a batch of 1. */
size_t svdo_workspace_bytes(const svdo_model *model, size_t batch);

/* Runs `samples` samples of raw values (the model's own preprocessing is applied) from `input`,
 * samples times the elements of the input shape, into `output`, samples times those of the output
 * shape. `workspace` must be aligned for float, best to 64 bytes, and have been initialised once
 * (calloc, memset, an earlier run); what it holds does not matter but to a stream, and is overwritten. The three
 * must not overlap.
 *
 * A value of `input` that is no finite number is refused before anything runs, and an output that is none, as
 * where sums overflow, is an error too: SVDO_NOT_FINITE, and svdo_message names sample and element. The outputs
 * are then all there, but none of them is a class. */
int svdo_run(const svdo_model *model, void *workspace, size_t workspace_bytes, const float *input,
             size_t samples, float *output);

/* A network whose weights have variances (svdo-compress --variances), ready to predict. */
typedef struct svdo_predictor svdo_predictor;

/* Reads a .svdo file from memory, which may be freed afterwards. `how` is "moments", one pass with means
 * and variances; "mc=N", N samples of the posterior; or "mean", without it. The same `seed` gives the same
 * numbers. Any number of threads may share a predictor. On success *predictor is to be given to
 * svdo_predictor_free, else it is NULL. */
int svdo_predictor_load(const void *bytes, size_t length, const char *how, uint64_t seed,
                        svdo_predictor **predictor);

/* Frees a predictor; NULL is allowed. */
void svdo_predictor_free(svdo_predictor *predictor);

/* What a sample of the input is, and the number of classes, or of outputs that are numbers; zero for NULL. */
svdo_shape svdo_predictor_input_shape(const svdo_predictor *predictor);
size_t svdo_predictor_classes(const svdo_predictor *predictor);

/* Predicts `samples` samples of raw values from `input` into `output`: for each sample a row of
 * 2 classes + 2 floats, the probabilities of classes, their standard deviations over the posterior, the
 * entropy of the probabilities and the mutual information of class and weights, both in nats. Allocates
 * memory. What is not finite is refused as by svdo_run. */
int svdo_predict(const svdo_predictor *predictor, const float *input, size_t samples, float *output);

/* The same of a network whose outputs are numbers: for each sample a row of 2 outputs floats, the means of the
 * outputs and their standard deviations over the posterior. There are as many outputs as
 * svdo_predictor_classes says. */
int svdo_predict_numbers(const svdo_predictor *predictor, const float *input, size_t samples, float *output);

/* One line on this thread's last call that returns a status; empty after success. Valid until the
 * thread's next call. */
const char *svdo_message(void);

/* The name of a status, and the version of the library; never NULL, never freed. */
const char *svdo_status_name(int status);
const char *svdo_version(void);

#ifdef __cplusplus
}
#endif

#endif
