// llama.cpp's own quantization, which the program llama-quantize calls, without what Python would add in time and memory.
//
//   quantize IN.gguf OUT.gguf THREADS

#include <stdio.h>
#include <stdlib.h>

#include "llama.h"

static void only_problems(enum ggml_log_level level, const char *text, void *data) {
    (void)data;
    if (level == GGML_LOG_LEVEL_WARN || level == GGML_LOG_LEVEL_ERROR) {
        fputs(text, stderr);
    }
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: %s IN.gguf OUT.gguf THREADS\n", argv[0]);
        return 2;
    }
    llama_log_set(only_problems, NULL);
    llama_backend_init();
    struct llama_model_quantize_params params = llama_model_quantize_default_params();
    params.nthread = atoi(argv[3]);
    params.ftype = LLAMA_FTYPE_MOSTLY_Q8_0;
    return llama_model_quantize(argv[1], argv[2], &params) == 0 ? 0 : 1;
}
