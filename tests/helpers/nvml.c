/* A stand-in for NVIDIA's libnvidia-ml.so.1, as far as the probe asks it; tests/helpers/nvml.py builds it.
 *
 * What it tells is the file that NVML_STAND_IN names, read at nvmlInit, a line a fact:
 *   driver|580.65.06
 *   cuda|13000
 *   device|PARENT|UUID|NAME|MAJOR|MINOR|TOTAL|FREE|MIG   slices have their GPU's line as PARENT, GPUs -1
 *   process|DEVICE|PID
 *   fail|FUNCTION|DEVICE|CODE                            DEVICE -1 fails for all of them
 * Devices are counted by line, from 0. Compiled with -DOLD it lacks what drivers before R510 lack.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS, UNINITIALIZED, INVALID_ARGUMENT, NOT_SUPPORTED, NO_PERMISSION, NOT_FOUND = 6,
       INSUFFICIENT_SIZE, DRIVER_NOT_LOADED = 9 };
enum { MOST = 128 };

typedef struct {
    int parent, major, minor, mig;
    char uuid[96], name[96];
    unsigned long long total, free;
} Device;
typedef struct { int device; unsigned pid; } Process;
typedef struct { char function[96]; int device, code; } Failure;

/* NVML's own structures. */
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } MemoryV2;
typedef struct { unsigned pid; unsigned long long used; unsigned instance, compute; } ProcessInfo;

static char driver[80];
static int cuda, devices, processes, failures, started;
static Device device_table[MOST];
static Process process_table[MOST];
static Failure failure_table[MOST];

static void read_facts(FILE *file)
{
    char line[512];
    devices = processes = failures = 0;
    while (fgets(line, sizeof line, file)) {
        Device *d = &device_table[devices];
        Process *p = &process_table[processes];
        Failure *f = &failure_table[failures];
        if (devices == MOST || processes == MOST || failures == MOST)
            abort();
        if (sscanf(line, "driver|%79[^\n]", driver) == 1 || sscanf(line, "cuda|%d", &cuda) == 1)
            continue;
        if (sscanf(line, "device|%d|%95[^|]|%95[^|]|%d|%d|%llu|%llu|%d", &d->parent, d->uuid, d->name,
                   &d->major, &d->minor, &d->total, &d->free, &d->mig) == 8)
            devices++;
        else if (sscanf(line, "process|%d|%u", &p->device, &p->pid) == 2)
            processes++;
        else if (sscanf(line, "fail|%95[^|]|%d|%d", f->function, &f->device, &f->code) == 3)
            failures++;
        else
            abort(); /* a test that says nonsense */
    }
}

static int failure(const char *function, const Device *device)
{
    if (!started)
        return UNINITIALIZED;
    for (int i = 0; i < failures; i++) {
        const Failure *f = &failure_table[i];
        if (!strcmp(f->function, function) && (f->device < 0 || device == &device_table[f->device]))
            return f->code;
    }
    return SUCCESS;
}

#define MAY_FAIL(device)                            \
    do {                                            \
        int code = failure(__func__, (device));     \
        if (code)                                   \
            return code;                            \
    } while (0)

static int copy(const char *text, char *buffer, unsigned size)
{
    if (strlen(text) >= size)
        return INSUFFICIENT_SIZE;
    strcpy(buffer, text);
    return SUCCESS;
}

/* The nth device that is a slice of `parent`, or a whole GPU where that is -1. */
static int nth(int parent, unsigned n, Device **found)
{
    for (int i = 0; i < devices; i++)
        if (device_table[i].parent == parent && n-- == 0) {
            *found = &device_table[i];
            return SUCCESS;
        }
    return parent < 0 ? INVALID_ARGUMENT : NOT_FOUND;
}

int nvmlInitWithFlags(unsigned flags)
{
    const char *path = getenv("NVML_STAND_IN");
    FILE *file = path ? fopen(path, "r") : NULL;
    (void)flags;
    if (!file)
        return DRIVER_NOT_LOADED;
    read_facts(file);
    fclose(file);
    started = 1;
    int code = failure(__func__, NULL);
    started = code == SUCCESS;
    return code;
}

int nvmlShutdown(void)
{
    MAY_FAIL(NULL);
    started = 0;
    return SUCCESS;
}

const char *nvmlErrorString(int code)
{
    return code == NO_PERMISSION ? "Insufficient Permissions" : "an error of the stand-in";
}

int nvmlSystemGetDriverVersion(char *version, unsigned length)
{
    MAY_FAIL(NULL);
    return copy(driver, version, length);
}

int nvmlSystemGetCudaDriverVersion(int *version)
{
    MAY_FAIL(NULL);
    *version = cuda;
    return SUCCESS;
}

int nvmlDeviceGetCount_v2(unsigned *count)
{
    Device *ignored;
    MAY_FAIL(NULL);
    for (*count = 0; nth(-1, *count, &ignored) == SUCCESS; ++*count)
        ;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device **device)
{
    int code = nth(-1, index, device);
    if (code)
        return code;
    MAY_FAIL(*device);
    return SUCCESS;
}

int nvmlDeviceGetUUID(const Device *device, char *uuid, unsigned length)
{
    MAY_FAIL(device);
    return copy(device->uuid, uuid, length);
}

int nvmlDeviceGetName(const Device *device, char *name, unsigned length)
{
    MAY_FAIL(device);
    return copy(device->name, name, length);
}

int nvmlDeviceGetCudaComputeCapability(const Device *device, int *major, int *minor)
{
    MAY_FAIL(device);
    *major = device->major;
    *minor = device->minor;
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo(const Device *device, Memory *memory)
{
    MAY_FAIL(device);
    *memory = (Memory){device->total, device->free, device->total - device->free};
    return SUCCESS;
}

#ifndef OLD
int nvmlDeviceGetMemoryInfo_v2(const Device *device, MemoryV2 *memory)
{
    MAY_FAIL(device);
    if (memory->version != (sizeof(MemoryV2) | 2u << 24))
        return INVALID_ARGUMENT;
    memory->total = device->total;
    memory->reserved = 0;
    memory->free = device->free;
    memory->used = device->total - device->free;
    return SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(const Device *device, unsigned *count, ProcessInfo *infos)
{
    unsigned room = *count;
    MAY_FAIL(device);
    *count = 0;
    for (int i = 0; i < processes; i++)
        if (device == &device_table[process_table[i].device]) {
            if (*count < room)
                infos[*count] = (ProcessInfo){.pid = process_table[i].pid, .used = 1 << 20};
            ++*count;
        }
    return *count > room ? INSUFFICIENT_SIZE : SUCCESS;
}

int nvmlDeviceGetMigMode(const Device *device, unsigned *current, unsigned *pending)
{
    MAY_FAIL(device);
    if (device->major < 8)
        return NOT_SUPPORTED;
    *current = *pending = device->mig;
    return SUCCESS;
}

int nvmlDeviceGetMaxMigDeviceCount(const Device *device, unsigned *count)
{
    MAY_FAIL(device);
    *count = device->mig ? 7 : 0;
    return SUCCESS;
}

int nvmlDeviceGetMigDeviceHandleByIndex(const Device *device, unsigned index, Device **slice)
{
    int code = nth(device - device_table, index, slice);
    if (code)
        return code;
    MAY_FAIL(*slice);
    return SUCCESS;
}
#endif
