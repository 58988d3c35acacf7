// llama.cpp, through its library alone: the smallest program that a user could write on it. Built with -DIK_LLAMA it is
// one on the fork ik_llama.cpp, with weights repacked at load (`-rtr 1` of its tools).
//
//   llama start MODEL THREADS PROMPT                                 prints the first token that follows
//   llama speed MODEL THREADS PREFILL,... DECODE,... DEPTH REPS      prints one JSON object per repetition
//   llama quantize SOURCE TARGET TYPE THREADS                        makes a GGUF file of another type: q8_0 or q4_0
//   llama version                                                    prints ggml's version and commit
//
// Prefill asks for the logits of the last position, decoding starts from an empty context: what llama-bench does.

#include "llama.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void only_errors(enum ggml_log_level level, const char * text, void * data) {
    (void) data;
    if (level == GGML_LOG_LEVEL_ERROR) fputs(text, stderr);
}

static void fail(const char * what) {
    fprintf(stderr, "llama: %s\n", what);
    exit(1);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + 1e-9 * time.tv_nsec;
}

static struct llama_context * context(struct llama_model * model, int threads, int tokens) {
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = tokens;
    params.n_batch = 2048;
    params.n_ubatch = 512;
    params.n_threads = params.n_threads_batch = threads;
    struct llama_context * made = llama_init_from_model(model, params);
    if (!made) fail("no context");
    return made;
}

// What differs between the two libraries.
#ifdef IK_LLAMA
static struct llama_batch batch(llama_token * tokens, int n, int past) {
    return llama_batch_get_one(tokens, n, past, 0);
}

static void clear(struct llama_context * ctx) {
    llama_kv_cache_clear(ctx);
}

static int tokenize(struct llama_model * model, const char * text, llama_token * tokens, int most) {
    return llama_tokenize(model, text, strlen(text), tokens, most, true, true);
}

static int piece(struct llama_model * model, llama_token token, char * text, int most) {
    return llama_token_to_piece(model, token, text, most, 0, true);
}

static struct llama_model * load(const char * path) {
    struct llama_model_params params = llama_model_default_params();
    params.repack_tensors = true;
    return llama_model_load_from_file(path, params);
}

#define llama_model_free llama_free_model
#else
static struct llama_batch batch(llama_token * tokens, int n, int past) {
    (void) past; // the library counts
    return llama_batch_get_one(tokens, n);
}

static void clear(struct llama_context * ctx) {
    llama_memory_clear(llama_get_memory(ctx), false);
}

static int tokenize(struct llama_model * model, const char * text, llama_token * tokens, int most) {
    return llama_tokenize(llama_model_get_vocab(model), text, strlen(text), tokens, most, true, true);
}

static int piece(struct llama_model * model, llama_token token, char * text, int most) {
    return llama_token_to_piece(llama_model_get_vocab(model), token, text, most, 0, true);
}

static struct llama_model * load(const char * path) {
    ggml_backend_load_all();
    struct llama_model_params params = llama_model_default_params();
    params.load_mode = LLAMA_LOAD_MODE_MMAP;
    return llama_model_load_from_file(path, params);
}
#endif

static int vocabulary_of(struct llama_model * model) {
    return llama_vocab_n_tokens(llama_model_get_vocab(model));
}

static void decode(struct llama_context * ctx, llama_token * tokens, int n, int past) {
    if (llama_decode(ctx, batch(tokens, n, past)) != 0) fail("llama_decode");
}

static void start(struct llama_model * model, int threads, const char * prompt) {
    llama_token tokens[512];
    const int n = tokenize(model, prompt, tokens, 512);
    if (n <= 0) fail("the prompt");
    struct llama_context * ctx = context(model, threads, n + 1);
    decode(ctx, tokens, n, 0);
    const float * logits = llama_get_logits_ith(ctx, -1);
    llama_token next = 0;
    for (int token = 1; token < vocabulary_of(model); token++) {
        if (logits[token] > logits[next]) next = token;
    }
    char text[256];
    const int length = piece(model, next, text, sizeof text);
    if (length < 0) fail("the token");
    fwrite(text, 1, length, stdout);
    fflush(stdout);
    llama_free(ctx);
}

// One test: `n` tokens at once or one by one behind `depth` others. The first repetition warms up and does not count.
static void speed(struct llama_model * model, int threads, int prefill, int n, int depth, int repetitions) {
    const int vocabulary = vocabulary_of(model);
    llama_token * tokens = malloc((depth + n) * sizeof *tokens);
    for (int i = 0; i < depth + n; i++) tokens[i] = (llama_token) ((long) i * 7919 % vocabulary);
    struct llama_context * ctx = context(model, threads, depth + n);
    for (int repetition = 0; repetition <= repetitions; repetition++) {
        clear(ctx);
        if (depth > 0) decode(ctx, tokens, depth, 0);
        llama_synchronize(ctx);
        const double began = now();
        for (int i = 0; i < (prefill ? 1 : n); i++) {
            decode(ctx, tokens + depth + i, prefill ? n : 1, depth + i);
            llama_synchronize(ctx);
        }
        const double seconds = now() - began;
        if (repetition == 0) continue;
        printf("{\"test\": \"%s%d", prefill ? "pp" : "tg", n);
        if (depth > 0) printf(" @ d%d", depth);
        printf("\", \"tokens_per_s\": %f}\n", n / seconds);
        fflush(stdout);
    }
    llama_free(ctx);
    free(tokens);
}

static void speeds(struct llama_model * model, int threads, int prefill, const char * sizes, int depth, int repetitions) {
    char * rest = strdup(sizes);
    for (char * size = strtok(rest, ","); size; size = strtok(NULL, ",")) {
        if (atoi(size) > 0) speed(model, threads, prefill, atoi(size), depth, repetitions);
    }
    free(rest);
}

int main(int argc, char ** argv) {
    llama_log_set(only_errors, NULL);
#ifndef IK_LLAMA
    if (argc == 2 && strcmp(argv[1], "version") == 0) {
        printf("ggml %s, commit %s\n", ggml_version(), ggml_commit());
        return 0;
    }
#endif
    if (argc == 6 && strcmp(argv[1], "quantize") == 0) {
        struct llama_model_quantize_params params = llama_model_quantize_default_params();
        params.ftype = strcmp(argv[4], "q4_0") == 0 ? LLAMA_FTYPE_MOSTLY_Q4_0 : LLAMA_FTYPE_MOSTLY_Q8_0;
        params.nthread = atoi(argv[5]);
        if (llama_model_quantize(argv[2], argv[3], &params) != 0) fail("the quantizer");
        return 0;
    }
    const int starts = argc == 5 && strcmp(argv[1], "start") == 0;
    if (!starts && !(argc == 8 && strcmp(argv[1], "speed") == 0)) fail("arguments: see the top of llama.c");
    struct llama_model * model = load(argv[2]);
    if (!model) fail("no model");
    const int threads = atoi(argv[3]);
    if (starts) {
        start(model, threads, argv[4]);
    } else {
        speeds(model, threads, 1, argv[4], atoi(argv[6]), atoi(argv[7]));
        speeds(model, threads, 0, argv[5], atoi(argv[6]), atoi(argv[7]));
    }
    llama_model_free(model);
    return 0;
}
