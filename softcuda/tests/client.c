/* A client of the driver API in C: opens the library, runs a kernel from a string, checks what comes back. */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef int (*Proc)(const char *, void **, int, uint64_t, int *);
static Proc get_proc;

static void *find(const char *name) {
    void *function = NULL;
    int status = -1;
    if (get_proc(name, &function, 13000, 0, &status) != 0 || status != 0) {
        fprintf(stderr, "%s: not found\n", name);
        return NULL;
    }
    return function;
}

#define CALL(name, types, ...)                                           \
    do {                                                                 \
        int (*entry) types = (int(*) types)find(name);                   \
        int code = entry ? entry(__VA_ARGS__) : -1;                      \
        if (code != 0) {                                                 \
            fprintf(stderr, "%s: error %d\n", name, code);               \
            return 1;                                                    \
        }                                                                \
    } while (0)

static const char *PTX =
    ".version 8.0\n.target sm_80\n.address_size 64\n"
    ".visible .entry scale(.param .u64 x, .param .u32 factor) {\n"
    "  .reg .b32 %r<5>; .reg .b64 %rd<4>;\n"
    "  ld.param.u64 %rd1, [x];\n  ld.param.u32 %r1, [factor];\n"
    "  cvta.to.global.u64 %rd2, %rd1;\n  mov.u32 %r2, %tid.x;\n"
    "  mul.wide.u32 %rd3, %r2, 4;\n  add.s64 %rd2, %rd2, %rd3;\n"
    "  ld.global.u32 %r3, [%rd2];\n  mul.lo.u32 %r4, %r3, %r1;\n"
    "  st.global.u32 [%rd2], %r4;\n  ret;\n}\n";

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    void *library = dlopen(argv[1], RTLD_NOW);
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        return 2;
    }
    get_proc = (Proc)dlsym(library, "cuGetProcAddress_v2");
    if (!get_proc) return 2;

    int device = -1;
    void *context, *module, *function;
    uint64_t x;
    uint32_t host[32], factor = 3;
    char name[64], log[256] = "";
    for (uint32_t i = 0; i < 32; i++) host[i] = i;
    void *params[] = {&x, &factor};

    CALL("cuInit", (unsigned), 0);
    CALL("cuDeviceGet", (int *, int), &device, 0);
    CALL("cuDeviceGetName", (char *, int, int), name, sizeof name, device);
    CALL("cuCtxCreate", (void **, void *, unsigned, int), &context, NULL, 0, device);
    CALL("cuModuleLoadData", (void **, const void *), &module, PTX);
    CALL("cuModuleGetFunction", (void **, void *, const char *), &function, module, "scale");
    CALL("cuMemAlloc", (uint64_t *, size_t), &x, sizeof host);
    CALL("cuMemcpyHtoD", (uint64_t, const void *, size_t), x, host, sizeof host);
    CALL("cuLaunchKernel",
         (void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **, void **),
         function, 1, 1, 1, 32, 1, 1, 0, NULL, params, NULL);
    CALL("cuMemcpyDtoH", (void *, uint64_t, size_t), host, x, sizeof host);
    uint32_t sum = 0;
    for (uint32_t i = 0; i < 32; i++) sum += host[i];

    /* A module that does not load leaves its reason in the error log. */
    int options[] = {5, 6};
    void *values[] = {log, (void *)sizeof log};
    int (*load)(void **, const void *, unsigned, int *, void **) = find("cuModuleLoadDataEx");
    int code = load(&module, ".version 8.0\n.target sm_80\n.address_size 64\n.entry f() { frobnicate.u32; }\n", 2,
                    options, values);
    printf("%s\nsum %u\nbad module: %d, %zu bytes of log: %s\n", name, sum, code != 0, (size_t)values[1],
           strstr(log, "frobnicate") ? "frobnicate is named" : log);
    CALL("cuCtxDestroy", (void *), context);
    return 0;
}
