// llama.cpp, through its library alone: the smallest program that a user could write on it.
//
//   llama start MODEL THREADS PROMPT                                 prints the first token that follows
//   llama speed MODEL THREADS PREFILL,... DECODE,... DEPTH REPS      prints one JSON object per repetition
//   llama version                                                    prints ggml's version and commit
//
// Prefill asks for the logits of the last position, decoding starts from an empty context: what llama-bench does.

#include "llama.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void quiet(enum ggml_log_level level, const char * text, void * data) {
    (void) level, (void) text, (void) data;
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
    params.no_perf = true;
    struct llama_context * made = llama_init_from_model(model, params);
    if (!made) fail("no context");
    return made;
}

static void decode(struct llama_context * ctx, llama_token * tokens, int n) {
    if (llama_decode(ctx, llama_batch_get_one(tokens, n)) != 0) fail("llama_decode");
}

static int start(struct llama_model * model, int threads, const char * prompt) {
    const struct llama_vocab * vocab = llama_model_get_vocab(model);
    llama_token tokens[512];
    const int n = llama_tokenize(vocab, prompt, strlen(prompt), tokens, 512, true, true);
    if (n <= 0) fail("the prompt");
    struct llama_context * ctx = context(model, threads, n + 1);
    struct llama_sampler * greedy = llama_sampler_init_greedy();
    decode(ctx, tokens, n);
    const llama_token next = llama_sampler_sample(greedy, ctx, -1);
    char piece[256];
    const int length = llama_token_to_piece(vocab, next, piece, sizeof piece, 0, true);
    if (length < 0) fail("the token");
    fwrite(piece, 1, length, stdout);
    fflush(stdout);
    llama_sampler_free(greedy);
    llama_free(ctx);
    return 0;
}

// One test: `n` tokens at once or one by one behind `depth` others. The first repetition warms up and does not count.
static void speed(struct llama_model * model, int threads, int prefill, int n, int depth, int repetitions) {
    const int vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(model));
    llama_token * tokens = malloc((depth + n) * sizeof *tokens);
    for (int i = 0; i < depth + n; i++) tokens[i] = (llama_token) ((long) i * 7919 % vocabulary);
    struct llama_context * ctx = context(model, threads, depth + n);
    for (int repetition = 0; repetition <= repetitions; repetition++) {
        llama_memory_clear(llama_get_memory(ctx), false);
        if (depth > 0) decode(ctx, tokens, depth);
        llama_synchronize(ctx);
        const double began = now();
        for (int i = 0; i < (prefill ? 1 : n); i++) {
            decode(ctx, tokens + depth + i, prefill ? n : 1);
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
    if (argc == 2 && strcmp(argv[1], "version") == 0) {
        printf("ggml %s, commit %s\n", ggml_version(), ggml_commit());
        return 0;
    }
    const int starts = argc == 5 && strcmp(argv[1], "start") == 0;
    if (!starts && !(argc == 8 && strcmp(argv[1], "speed") == 0)) fail("arguments: see the top of llama.c");
    llama_log_set(quiet, NULL);
    ggml_backend_load_all();
    struct llama_model_params params = llama_model_default_params();
    params.load_mode = LLAMA_LOAD_MODE_MMAP;
    struct llama_model * model = llama_model_load_from_file(argv[2], params);
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
