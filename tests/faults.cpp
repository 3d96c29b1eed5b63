// A file layer that fails on purpose, for LD_PRELOAD. Calls that touch files below a root are counted; the n-th of the chosen
// classes fails, is cut short, or kills the process. It can also write down what is done, for states after a loss of power.
//
//     faults_begin(root, classes, at, kind, log)   start counting; log is a file outside the root, or nullptr
//     faults_end()                                 stop; returns how many calls of these classes there were
//     faults_mark(text)                            a line of the caller's in the log
//
// The log: a line "VERB number name name offset length" (tab between, number the file's inode), then `length` bytes.

#include <cerrno>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <fcntl.h>
#include <mutex>
#include <string>
#include <sys/stat.h>
#include <unistd.h>

namespace {

enum Class { WRITE = 1, SYNC = 2, NAME = 4, TRUNCATE = 8, OPEN = 16, READ = 32 };
enum Kind { COUNT, FAIL_IO, FAIL_FULL, CUT_SHORT, KILL };

std::mutex guard;
std::string root;
int chosen = 0, kind = COUNT;
long at = -1, seen = 0;
int logged = -1;

template <class F> F real(const char* name) { return reinterpret_cast<F>(dlsym(RTLD_NEXT, name)); }

std::string path_of(int handle) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
    const ssize_t size = readlink(link, path, sizeof path);
    return size < 0 ? "" : std::string(path, size);
}

std::string absolute(int folder, const char* path) {
    if (path[0] == '/') return path;
    if (folder != AT_FDCWD) return path_of(folder) + "/" + path;
    char here[4096];
    return std::string(getcwd(here, sizeof here) ? here : "") + "/" + path;
}

bool ours(const std::string& path) { return !root.empty() && path.compare(0, root.size(), root) == 0; }

// 0: go on. 1: go on with half of it. Otherwise an errno to fail with.
int fault(Class what) {
    if (!(chosen & what) || ++seen < at || at < 0) return 0;
    if (seen > at) return kind == FAIL_FULL && what == WRITE ? ENOSPC : 0;  // a full disk stays full
    if (kind == KILL) kill(getpid(), SIGKILL);
    if (kind == CUT_SHORT) return what == WRITE ? 1 : EIO;
    return kind == FAIL_FULL ? ENOSPC : kind == FAIL_IO ? EIO : 0;
}

void note(const char* verb, unsigned long number, const std::string& one, const std::string& other, long offset, const void* data,
          size_t size) {
    if (logged < 0 || one.find("-shm") != std::string::npos) return;
    char line[9000];
    const int length = snprintf(line, sizeof line, "%s\t%lu\t%s\t%s\t%ld\t%zu\n", verb, number, one.c_str(), other.c_str(), offset, size);
    static auto write_to = real<ssize_t (*)(int, const void*, size_t)>("write");
    write_to(logged, line, length);
    if (size) write_to(logged, data, size);
}

unsigned long number_of(int handle) {
    struct stat about;
    return fstat(handle, &about) ? 0 : about.st_ino;
}

int open_any(int folder, const char* path, int flags, mode_t mode) {
    static auto call = real<int (*)(int, const char*, int, ...)>("openat64");
    const std::string whole = absolute(folder, path);
    if (!ours(whole)) return call(folder, path, flags, mode);
    std::lock_guard<std::mutex> hold(guard);
    if (const int code = fault(OPEN)) return errno = code == 1 ? EIO : code, -1;
    struct stat about;
    const bool fresh = (flags & O_CREAT) && stat(whole.c_str(), &about);
    const int handle = call(folder, path, flags, mode);
    if (handle >= 0 && fresh) note("create", number_of(handle), whole, "", 0, nullptr, 0);
    if (handle >= 0 && (flags & O_TRUNC)) note("truncate", number_of(handle), whole, "", 0, nullptr, 0);
    return handle;
}

mode_t mode_in(int flags, va_list list) { return flags & (O_CREAT | O_TMPFILE) ? va_arg(list, mode_t) : 0; }

// A call on an open file: counted, and done unless it is to fail.
template <class F> ssize_t on_file(Class what, int handle, const char* verb, const void* data, size_t size, long offset, F call) {
    const std::string path = root.empty() ? "" : path_of(handle);
    if (!ours(path)) return call(size);
    std::lock_guard<std::mutex> hold(guard);
    const int code = fault(what);
    if (code > 1) return errno = code, -1;
    if (code == 1) size /= 2;
    const long place = offset >= 0 ? offset : what == WRITE ? lseek(handle, 0, SEEK_CUR) : 0;
    const ssize_t done = call(size);
    if (done >= 0 && what != READ) note(verb, number_of(handle), path, "", place, data, what == WRITE ? done : 0);
    return done;
}

template <class F> int on_name(int folder, const char* path, const char* verb, const std::string& other, F call) {
    const std::string whole = absolute(folder, path);
    if (!ours(whole)) return call();
    std::lock_guard<std::mutex> hold(guard);
    if (const int code = fault(NAME)) return errno = code == 1 ? EIO : code, -1;
    const int done = call();
    struct stat about = {};
    if (!done && !strcmp(verb, "mkdir")) stat(whole.c_str(), &about);
    if (!done) note(verb, about.st_ino, whole, other, 0, nullptr, 0);
    return done;
}

}  // namespace

extern "C" {

void faults_begin(const char* below, int classes, long number, int what, const char* log) {
    std::lock_guard<std::mutex> hold(guard);
    root = below, chosen = classes, at = number, kind = what, seen = 0;
    logged = log ? real<int (*)(const char*, int, ...)>("open64")(log, O_WRONLY | O_CREAT | O_APPEND, 0600) : -1;
}

long faults_end() {
    std::lock_guard<std::mutex> hold(guard);
    root.clear();
    if (logged >= 0) close(logged);
    logged = -1, at = -1;
    return seen;
}

void faults_mark(const char* text) {
    std::lock_guard<std::mutex> hold(guard);
    note("mark", 0, text, "", 0, nullptr, 0);
}

int open(const char* path, int flags, ...) {
    va_list list;
    va_start(list, flags);
    const mode_t mode = mode_in(flags, list);
    va_end(list);
    return open_any(AT_FDCWD, path, flags, mode);
}

int open64(const char* path, int flags, ...) {
    va_list list;
    va_start(list, flags);
    const mode_t mode = mode_in(flags, list);
    va_end(list);
    return open_any(AT_FDCWD, path, flags, mode);
}

int openat(int folder, const char* path, int flags, ...) {
    va_list list;
    va_start(list, flags);
    const mode_t mode = mode_in(flags, list);
    va_end(list);
    return open_any(folder, path, flags, mode);
}

int openat64(int folder, const char* path, int flags, ...) {
    va_list list;
    va_start(list, flags);
    const mode_t mode = mode_in(flags, list);
    va_end(list);
    return open_any(folder, path, flags, mode);
}

ssize_t write(int handle, const void* data, size_t size) {
    static auto call = real<ssize_t (*)(int, const void*, size_t)>("write");
    return on_file(WRITE, handle, "write", data, size, -1, [&](size_t some) { return call(handle, data, some); });
}

ssize_t pwrite(int handle, const void* data, size_t size, off_t offset) {
    static auto call = real<ssize_t (*)(int, const void*, size_t, off_t)>("pwrite64");
    return on_file(WRITE, handle, "write", data, size, offset, [&](size_t some) { return call(handle, data, some, offset); });
}

ssize_t pwrite64(int handle, const void* data, size_t size, off64_t offset) { return pwrite(handle, data, size, offset); }

ssize_t read(int handle, void* data, size_t size) {
    static auto call = real<ssize_t (*)(int, void*, size_t)>("read");
    return on_file(READ, handle, "read", nullptr, size, 0, [&](size_t some) { return call(handle, data, some); });
}

ssize_t pread(int handle, void* data, size_t size, off_t offset) {
    static auto call = real<ssize_t (*)(int, void*, size_t, off_t)>("pread64");
    return on_file(READ, handle, "read", nullptr, size, 0, [&](size_t some) { return call(handle, data, some, offset); });
}

ssize_t pread64(int handle, void* data, size_t size, off64_t offset) { return pread(handle, data, size, offset); }

int fsync(int handle) {
    static auto call = real<int (*)(int)>("fsync");
    return on_file(SYNC, handle, "sync", nullptr, 0, 0, [&](size_t) { return call(handle); });
}

int fdatasync(int handle) {
    static auto call = real<int (*)(int)>("fdatasync");
    return on_file(SYNC, handle, "sync", nullptr, 0, 0, [&](size_t) { return call(handle); });
}

int ftruncate(int handle, off_t size) {
    static auto call = real<int (*)(int, off_t)>("ftruncate64");
    return on_file(TRUNCATE, handle, "truncate", nullptr, 0, size, [&](size_t) { return call(handle, size); });
}

int ftruncate64(int handle, off64_t size) { return ftruncate(handle, size); }

int rename(const char* from, const char* to) {
    static auto call = real<int (*)(const char*, const char*)>("rename");
    return on_name(AT_FDCWD, from, "rename", absolute(AT_FDCWD, to), [&] { return call(from, to); });
}

int unlink(const char* path) {
    static auto call = real<int (*)(const char*)>("unlink");
    return on_name(AT_FDCWD, path, "unlink", "", [&] { return call(path); });
}

int rmdir(const char* path) {
    static auto call = real<int (*)(const char*)>("rmdir");
    return on_name(AT_FDCWD, path, "unlink", "", [&] { return call(path); });
}

int unlinkat(int folder, const char* path, int flags) {
    static auto call = real<int (*)(int, const char*, int)>("unlinkat");
    return on_name(folder, path, "unlink", "", [&] { return call(folder, path, flags); });
}

int mkdir(const char* path, mode_t mode) {
    static auto call = real<int (*)(const char*, mode_t)>("mkdir");
    return on_name(AT_FDCWD, path, "mkdir", "", [&] { return call(path, mode); });
}

}  // extern "C"
