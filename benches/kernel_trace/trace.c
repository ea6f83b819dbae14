/* When each kernel and copy of a CUDA program ran, under graphs too: a library that the driver loads into the program.
 *
 *   cc -O2 -shared -fPIC -I$CUPTI/include trace.c -o trace.so $CUPTI/lib/libcupti.so.13 -Wl,-rpath,$CUPTI/lib
 *   CUDA_INJECTION64_PATH=$PWD/trace.so KERNEL_TRACE=trace.txt PROGRAM
 *
 * CUPTI comes with the CUDA toolkit (extras/CUPTI) and with the wheel nvidia-cuda-cupti. A line a kernel or copy:
 * start and end in nanoseconds, the grid, the name. `table.py` makes sense of it. */
#include <cupti.h>
#include <stdio.h>
#include <stdlib.h>

static FILE *out;

static void want_buffer(uint8_t **buffer, size_t *size, size_t *max_records) {
    *size = 16 << 20;
    *buffer = aligned_alloc(8, *size);
    *max_records = 0;
}

static void take_buffer(CUcontext context, uint32_t stream, uint8_t *buffer, size_t size, size_t valid) {
    CUpti_Activity *record = NULL;
    while (cuptiActivityGetNextRecord(buffer, valid, &record) == CUPTI_SUCCESS) {
        if (record->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) {
            const CUpti_ActivityKernel10 *k = (const void *)record;
            fprintf(out, "%llu %llu %d %d %d %s\n", (unsigned long long)k->start, (unsigned long long)k->end, k->gridX,
                    k->gridY, k->gridZ, k->name);
        } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMCPY) {
            const CUpti_ActivityMemcpy6 *m = (const void *)record;
            fprintf(out, "%llu %llu %llu 0 0 [copy]\n", (unsigned long long)m->start, (unsigned long long)m->end,
                    (unsigned long long)m->bytes);
        }
    }
    free(buffer);
}

static void finish(void) {
    cuptiActivityFlushAll(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED);
    fclose(out);
}

int InitializeInjection(void) {
    const char *path = getenv("KERNEL_TRACE");
    out = fopen(path ? path : "trace.txt", "w");
    if (!out || cuptiActivityRegisterCallbacks(want_buffer, take_buffer) != CUPTI_SUCCESS ||
        cuptiActivityEnable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) != CUPTI_SUCCESS ||
        cuptiActivityEnable(CUPTI_ACTIVITY_KIND_MEMCPY) != CUPTI_SUCCESS) {
        fprintf(stderr, "trace.so: no trace\n");
        return 0;
    }
    atexit(finish);
    return 1;
}
