/* Uses every function of svdo.h on the example of formats/svdo-v1.md, given as the first argument, on the same
 * with names of its classes, the second, on a network over sequences of up to six steps, the third, on another that
 * looks back alone, the fourth, and, if there is one, on a classifier with variances, the fifth:
 * y = [x1 - 2 x2, x0 / 2 - 1/4]. */
#include "svdo.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failures = 0;

static void check(int holds, const char *what) {
    if (!holds) {
        fprintf(stderr, "FAILED: %s (%s)\n", what, svdo_message());
        failures++;
    }
}

enum { SAMPLES = 100, THREADS = 4 };

/* Runs SAMPLES samples with a workspace for `batch` and checks them. */
static void run(const svdo_model *model, size_t batch) {
    size_t bytes = svdo_workspace_bytes(model, batch);
    void *workspace = calloc(1, bytes);
    float x[3 * SAMPLES], y[2 * SAMPLES];
    for (int i = 0; i < 3 * SAMPLES; i++) {
        x[i] = (float)(i % 11);
    }
    check(svdo_run(model, workspace, bytes, x, SAMPLES, y) == SVDO_OK, "svdo_run");
    check(strcmp(svdo_message(), "") == 0, "no message after success");
    for (int i = 0; i < SAMPLES; i++) {
        const float *in = x + 3 * i;
        check(fabsf(y[2 * i] - (in[1] - 2 * in[2])) < 1e-6f, "first output");
        check(fabsf(y[2 * i + 1] - (in[0] / 2 - 0.25f)) < 1e-6f, "second output");
    }
    free(workspace);
}

static void *thread(void *model) {
    for (int i = 0; i < 20; i++) {
        run(model, 1 + (size_t)i);
    }
    return NULL;
}

/* The bytes of a file; 0 if it cannot be read. */
static size_t contents(const char *path, unsigned char *bytes, size_t room) {
    FILE *file = fopen(path, "rb");
    size_t length = file ? fread(bytes, 1, room, file) : 0;
    if (file) {
        fclose(file);
    }
    return length;
}

/* The same, to be freed. */
static unsigned char *read_file(const char *path, size_t *length) {
    unsigned char *bytes = malloc(1 << 20);
    *length = bytes ? contents(path, bytes, 1 << 20) : 0;
    return bytes;
}

/* Predictions by the example, which has no variances: those of means. */
static void predict(const char *path) {
    size_t length;
    unsigned char *bytes = read_file(path, &length);
    svdo_predictor *predictor = (svdo_predictor *)bytes;
    check(svdo_predictor_load(bytes, length, "moments", 0, &predictor) == SVDO_INVALID_ARGUMENT, "no variances");
    check(predictor == NULL && strstr(svdo_message(), "the file holds no variances") != NULL, "says so");
    check(svdo_predictor_load(bytes, length, "mc=0", 0, &predictor) == SVDO_INVALID_ARGUMENT, "no samples");
    check(svdo_predictor_load(bytes, length, NULL, 0, &predictor) == SVDO_INVALID_ARGUMENT, "how is NULL");
    check(svdo_predictor_load(bytes, length, "mean", 0, NULL) == SVDO_INVALID_ARGUMENT, "predictor is NULL");
    check(svdo_predictor_load(NULL, 9, "mean", 0, &predictor) == SVDO_INVALID_ARGUMENT, "bytes are NULL");
    check(svdo_predictor_load(bytes, length, "mean", 0, &predictor) == SVDO_OK, "svdo_predictor_load");
    free(bytes);
    if (!predictor) {
        return;
    }
    check(svdo_predictor_input_shape(predictor).channels == 3, "input shape of a predictor");
    check(svdo_predictor_classes(predictor) == 2 && svdo_predictor_classes(NULL) == 0, "classes");
    float x[6] = {2, 1, 0, 0, 3, 1}, y[12];
    check(svdo_predict(predictor, x, 2, y) == SVDO_OK, "svdo_predict");
    for (int i = 0; i < 2; i++) {
        const float *in = x + 3 * i, *row = y + 6 * i;
        float first = in[1] - 2 * in[2], second = in[0] / 2 - 0.25f;
        float p = 1 / (1 + expf(second - first));
        check(fabsf(row[0] - p) < 1e-6f && fabsf(row[1] - (1 - p)) < 1e-6f, "probabilities");
        check(row[2] < 1e-6f && row[3] < 1e-6f && row[5] < 1e-6f, "means leave nothing to learn");
        check(fabsf(row[4] + p * logf(p) + (1 - p) * logf(1 - p)) < 1e-5f, "entropy");
    }
    check(svdo_predict_numbers(predictor, x, 2, y) == SVDO_OK, "svdo_predict_numbers");
    for (int i = 0; i < 2; i++) {
        const float *in = x + 3 * i, *row = y + 4 * i;
        check(row[0] == in[1] - 2 * in[2] && row[1] == in[0] / 2 - 0.25f, "means");
        check(row[2] == 0 && row[3] == 0, "means have no deviation");
    }
    check(svdo_predict_numbers(predictor, x, (size_t)-1, y) == SVDO_INVALID_ARGUMENT, "too many numbers");
    check(svdo_predict_numbers(NULL, x, 1, y) == SVDO_INVALID_ARGUMENT, "no predictor of numbers");
    x[4] = INFINITY;
    check(svdo_predict(predictor, x, 2, y) == SVDO_NOT_FINITE, "an infinite input");
    check(svdo_predict(predictor, x, 0, y) == SVDO_OK, "no samples are allowed");
    check(svdo_predict(predictor, NULL, 1, y) == SVDO_INVALID_ARGUMENT, "no input");
    check(svdo_predict(NULL, x, 1, y) == SVDO_INVALID_ARGUMENT, "no predictor");
    check(svdo_predict(predictor, x, (size_t)-1, y) == SVDO_INVALID_ARGUMENT, "too many samples");
    svdo_predictor_free(predictor);
}

/* Predictions by a classifier whose file holds variances. */
static void posterior(const char *path) {
    static const char *const ways[] = {"mean", "moments", "mc=16"};
    size_t length;
    unsigned char *bytes = read_file(path, &length);
    for (int way = 0; way < 3; way++) {
        svdo_predictor *predictor = NULL;
        check(svdo_predictor_load(bytes, length, ways[way], 7, &predictor) == SVDO_OK, "a posterior");
        if (!predictor) {
            break;
        }
        svdo_shape in = svdo_predictor_input_shape(predictor);
        size_t size = in.channels * in.height * in.width, classes = svdo_predictor_classes(predictor);
        float *x = calloc(size, sizeof *x), *rows = calloc(4 * classes + 4, sizeof *rows);
        for (size_t i = 0; i < size; i++) {
            x[i] = (float)(i % 251);
        }
        check(svdo_predict(predictor, x, 1, rows) == SVDO_OK, "svdo_predict");
        check(svdo_predict(predictor, x, 1, rows + 2 * classes + 2) == SVDO_OK, "and again");
        check(memcmp(rows, rows + 2 * classes + 2, (2 * classes + 2) * sizeof *rows) == 0, "the same");
        float sum = 0, spread = 0;
        for (size_t i = 0; i < classes; i++) {
            sum += rows[i];
            spread += rows[classes + i];
        }
        check(fabsf(sum - 1) < 1e-5f, "probabilities are of all classes");
        check((spread > 1e-5f) == (way > 0), "networks of the posterior differ");
        check(svdo_predict_numbers(predictor, x, 1, rows) == SVDO_OK, "svdo_predict_numbers");
        spread = 0;
        for (size_t i = 0; i < classes; i++) {
            spread += rows[classes + i];
        }
        check((spread > 1e-3f) == (way > 0), "and so do their outputs");
        free(x);
        free(rows);
        svdo_predictor_free(predictor);
    }
    free(bytes);
}

/* In 8 bits: about the outputs of floats. */
static void int8(const char *path) {
    size_t length;
    unsigned char *bytes = read_file(path, &length);
    svdo_model *model = NULL;
    float y[2][10], x[784];
    for (size_t i = 0; i < 784; i++) {
        x[i] = (float)(i % 251);
    }
    for (int way = 0; way < 2; way++) {
        int loaded = (way ? svdo_load_int8 : svdo_load)(bytes, length, &model);
        check(loaded == SVDO_OK, "a file with ranges");
        size_t size = svdo_workspace_bytes(model, 1);
        void *workspace = calloc(1, size);
        check(svdo_run(model, workspace, size, x, 1, y[way]) == SVDO_OK, "svdo_run");
        free(workspace);
        svdo_free(model);
    }
    for (size_t i = 0; i < 10; i++) {
        check(fabsf(y[0][i] - y[1][i]) < 1, "outputs in 8 bits");
    }
    free(bytes);
}

/* Sequences of several lengths, of which the last step counts, by one workspace. */
static void sequences(const char *path) {
    size_t length;
    unsigned char *bytes = read_file(path, &length);
    svdo_model *model = NULL, *three = NULL, *other = (svdo_model *)bytes;
    check(svdo_load(bytes, length, &model) == SVDO_OK, "a network over sequences");
    check(svdo_longest(model) == 6 && svdo_longest(NULL) == 0, "the longest sequence");
    check(svdo_at(model, 7, &other) == SVDO_INVALID_ARGUMENT && other == NULL, "too long");
    check(strstr(svdo_message(), "6 at most") != NULL, "says how long it may be");
    check(svdo_at(model, 0, &other) == SVDO_INVALID_ARGUMENT, "no steps");
    check(svdo_at(NULL, 3, &other) == SVDO_INVALID_ARGUMENT, "no model");
    check(svdo_at(model, 3, NULL) == SVDO_INVALID_ARGUMENT, "no place for a model");
    check(svdo_at(model, 3, &three) == SVDO_OK && svdo_longest(three) == 0, "svdo_at");
    check(svdo_input_shape(model).width == 6 && svdo_input_shape(three).width == 3, "its input");
    size_t size = svdo_workspace_bytes(model, 1);
    void *workspace = calloc(1, size);
    float x[6] = {1, 2, 3, 4, 5, 6}, changed[6] = {9, 9, 3, 9, 9, 6}, y[6] = {0};
    check(svdo_run(three, workspace, size, x, 1, y) == SVDO_OK, "three steps");
    svdo_free(model); /* In any order. */
    check(svdo_run(three, workspace, size, changed, 1, y + 3) == SVDO_OK, "others before the last");
    check(y[0] != 0 && memcmp(y, y + 3, 3 * sizeof *y) == 0, "the last step counts");
    free(workspace);
    svdo_free(three);
    free(bytes);
}

/* A stream in parts of one and of three steps: the outputs of the whole sequence. */
static void stream(const char *path, const char *of_no_memory) {
    size_t length;
    unsigned char *bytes = read_file(path, &length);
    svdo_model *whole = NULL, *parts = NULL;
    float x[12] = {1, -2, 3, 0.5f, 0, 2, -1, 4, 0.25f, 1, -3, 2}, y[18], found[9];
    check(svdo_load(bytes, length, &whole) == SVDO_OK && svdo_longest(whole) == 6, "a network for streams");
    size_t size = svdo_workspace_bytes(whole, 1);
    void *workspace = calloc(1, size);
    check(svdo_run(whole, workspace, size, x, 1, y) == SVDO_OK, "the whole sequence");
    free(workspace);
    svdo_free(whole);
    for (size_t steps = 1; steps <= 3; steps += 2) {
        check(svdo_load_stream(bytes, length, steps, &parts) == SVDO_OK, "svdo_load_stream");
        check(svdo_input_shape(parts).width == steps && svdo_longest(parts) == 0, "a part");
        size = svdo_workspace_bytes(parts, 1);
        workspace = calloc(1, size);
        for (size_t begin = 0; begin < 6; begin += steps) {
            float part[6];
            for (size_t i = 0; i < 2 * steps; i++) { /* [features, 1, steps] */
                part[i] = x[i / steps * 6 + begin + i % steps];
            }
            check(svdo_run(parts, workspace, size, part, 1, found) == SVDO_OK, "a part of a stream");
            for (size_t i = 0; i < 3 * steps; i++) {
                check(fabsf(found[i] - y[i / steps * 6 + begin + i % steps]) < 1e-4f, "goes on");
            }
        }
        free(workspace);
        svdo_free(parts);
    }
    check(svdo_load_stream(bytes, length, 7, &parts) == SVDO_INVALID_ARGUMENT && parts == NULL, "too many steps");
    check(svdo_load_stream(bytes, length, 0, &parts) == SVDO_INVALID_ARGUMENT, "no steps");
    check(svdo_load_stream(bytes, length, 1, NULL) == SVDO_INVALID_ARGUMENT, "no place for a stream");
    free(bytes);
    bytes = read_file(of_no_memory, &length);
    check(svdo_load_stream(bytes, length, 1, &parts) == SVDO_INVALID_ARGUMENT, "a network without memory");
    check(strstr(svdo_message(), "a stream would keep nothing") != NULL, "says why");
    free(bytes);
}

int main(int count, char **arguments) {
    unsigned char bytes[4096];
    size_t length = count > 4 ? contents(arguments[2], bytes, sizeof bytes) : 0;
    if (length == 0) {
        fprintf(stderr, "usage: test EXAMPLE.svdo NAMED.svdo LENGTHS.svdo STREAM.svdo [WITH_VARIANCES.svdo]\n");
        return 2;
    }
    svdo_model *named = NULL;
    check(svdo_load(bytes, length, &named) == SVDO_OK, "a file with names of classes");
    const char *names[] = {svdo_class_name(named, 0), svdo_class_name(named, 1)};
    check(names[0] && strcmp(names[0], "down") == 0 && names[1] && strcmp(names[1], "up") == 0, "their names");
    check(svdo_class_name(named, 2) == NULL && svdo_class_name(NULL, 0) == NULL, "no further name");
    svdo_free(named);
    length = contents(arguments[1], bytes, sizeof bytes);

    /* What cannot be loaded: a status, a message, no model. */
    svdo_model *model = (svdo_model *)bytes;
    for (size_t cut = 0; cut < length; cut++) {
        check(svdo_load(bytes, cut, &model) == SVDO_INVALID_FILE, "a cut file is invalid");
        check(model == NULL && strlen(svdo_message()) > 0, "no model but a message");
    }
    bytes[4]++;
    check(svdo_load(bytes, length, &model) == SVDO_UNSUPPORTED_VERSION, "a later version");
    check(strstr(svdo_message(), "use a newer svdo") != NULL, "says what to do");
    bytes[4]--;
    check(svdo_load_int8(bytes, length, &model) == SVDO_INVALID_ARGUMENT && model == NULL, "no ranges");
    check(strstr(svdo_message(), "--int8") != NULL, "says how to get them");
    check(svdo_load(NULL, 9, &model) == SVDO_INVALID_ARGUMENT, "bytes are NULL");
    check(svdo_load(bytes, length, NULL) == SVDO_INVALID_ARGUMENT, "model is NULL");

    check(svdo_load(bytes, length, &model) == SVDO_OK && model != NULL, "svdo_load");
    if (!model) {
        return 1;
    }
    memset(bytes, 0, sizeof bytes); /* The model does not depend on them. */
    svdo_shape in = svdo_input_shape(model), out = svdo_output_shape(model);
    check(in.channels == 3 && in.height == 1 && in.width == 1, "input shape");
    check(out.channels == 2 && out.height == 1 && out.width == 1, "output shape");
    check(svdo_class_name(model, 0) == NULL, "no names of classes");
    svdo_shape none = svdo_input_shape(NULL);
    check(none.channels == 0 && svdo_workspace_bytes(NULL, 1) == 0, "shapes of NULL");
    check(svdo_workspace_bytes(model, 64) >= svdo_workspace_bytes(model, 1), "workspaces grow");

    run(model, 1);
    run(model, 64);
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        check(pthread_create(&threads[i], NULL, thread, model) == 0, "pthread_create");
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }

    float x[3] = {0}, y[2] = {0}, little[4] = {0};
    size_t enough = svdo_workspace_bytes(model, 1);
    void *workspace = calloc(1, enough);
    check(svdo_run(model, little, 4, x, 1, y) == SVDO_WORKSPACE_TOO_SMALL, "too small");
    check(strstr(svdo_message(), "svdo_workspace_bytes") != NULL, "says whom to ask");
    check(svdo_run(NULL, workspace, enough, x, 1, y) == SVDO_INVALID_ARGUMENT, "no model");
    check(svdo_run(model, workspace, enough, NULL, 1, y) == SVDO_INVALID_ARGUMENT, "no input");
    check(svdo_run(model, workspace, enough, x, 1, NULL) == SVDO_INVALID_ARGUMENT, "no output");
    check(svdo_run(model, (char *)workspace + 1, enough, x, 1, y) == SVDO_INVALID_ARGUMENT,
          "an unaligned workspace");
    check(svdo_run(model, workspace, enough, x, (size_t)-1, y) == SVDO_INVALID_ARGUMENT,
          "too many samples");
    check(svdo_run(model, workspace, enough, x, 0, y) == SVDO_OK, "no samples are allowed");
    free(workspace);

    /* What is not finite is an error that says where: in the second sample, and in what the first gives. */
    size_t two = svdo_workspace_bytes(model, 2);
    float odd[6] = {1, 2, 3, 4, NAN, 6}, large[6] = {0, -3e38f, 3e38f, 0, 0, 0}, results[4];
    workspace = calloc(1, two);
    check(svdo_run(model, workspace, two, odd, 2, results) == SVDO_NOT_FINITE, "an input of NaN");
    check(strcmp(svdo_message(), "element 1 of sample 1 is NaN, not a finite number") == 0, "which it is");
    check(svdo_run(model, workspace, two, large, 2, results) == SVDO_NOT_FINITE, "sums that overflow");
    check(strcmp(svdo_message(), "output 0 of sample 0 is -inf, not a finite number") == 0, "whose it is");
    check(svdo_run(model, workspace, two, large + 3, 1, results) == SVDO_OK, "works again");
    free(workspace);

    svdo_free(model);
    predict(arguments[1]);

    for (int status = SVDO_OK; status <= SVDO_NOT_FINITE; status++) {
        check(strcmp(svdo_status_name(status), svdo_status_name(-1)) != 0, "names of statuses");
    }
    check(svdo_version()[0] >= '0' && svdo_version()[0] <= '9', "svdo_version");
    svdo_free(NULL);
    svdo_predictor_free(NULL);
    sequences(arguments[3]);
    stream(arguments[4], arguments[3]);
    if (count > 5) {
        posterior(arguments[5]);
        int8(arguments[5]);
    }
    if (failures == 0) {
        printf("the C interface of svdo %s works\n", svdo_version());
    }
    return failures != 0;
}
