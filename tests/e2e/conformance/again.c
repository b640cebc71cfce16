// What is done again and again: files that are opened many times, and files that are read and written here and there.
#include "case.h"
#include <sys/sendfile.h>

static char b[70000];

static void put(const char *path, const char *text) {
    int file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    write(file, text, strlen(text));
    close(file);
}

// What a file holds, as a server reads it.
static const char *get(const char *path) {
    struct stat status;
    memset(b, 0, 100);
    int file = open(path, O_RDONLY);
    if (file < 0)
        return strerror(errno);
    fstat(file, &status);
    long length = pread(file, b, status.st_size, 0);
    b[length < 0 ? 0 : length] = 0;
    close(file);
    return b;
}

static void often(const char *path) {
    for (int times = 0; times < 6; times++)
        get(path);
}

void openings(void) {
    char here[PATH_MAX], page[PATH_MAX + 20], other[PATH_MAX + 20], link[PATH_MAX + 20];
    getcwd(here, sizeof here);
    sprintf(page, "%s/page", here);
    sprintf(other, "%s/other", here);
    sprintf(link, "%s/link", here);
    put(page, "first");
    // Settled: files that changed a moment ago are left alone.
    doze(60);
    often(page);
    S(get(page));
    put(page, "again");
    S(get(page));
    doze(60);
    often(page);
    put(other, "moved here");
    rename(other, page);
    S(get(page));
    doze(60);
    often(page);
    int child = IN_CHILD(put(page, "by a child"));
    T(child);
    S(get(page));
    doze(60);
    often(page);
    T(IN_CHILD(_exit(strcmp(get(page), "by a child"))));
    unlink(page);
    S(get(page));
    put(page, "new");
    S(get(page));
    symlink("page", link);
    put(other, "else");
    doze(60);
    often(link);
    unlink(link);
    symlink("other", link);
    S(get(link));
    doze(60);
    often(page);
    truncate(page, 1);
    S(get(page));
    put(page, "0123456789");
    doze(60);
    often(page);
    // Numbers, positions, flags.
    int one = open(page, O_RDONLY), two = open(page, O_RDONLY), free = dup(0);
    T(two - one);
    T(free - one);
    close(free);
    close(one);
    T(open(page, O_RDONLY) == one);
    memset(b, 0, 100);
    T(read(one, b, 4));
    S(b);
    T(lseek(one, 0, SEEK_CUR));
    T(lseek(one, -2, SEEK_END));
    T(lseek(one, -20, SEEK_SET));
    T(read(one, b, 4));
    S(b);
    T(read(one, b, 4));
    T(read(two, b, 4));
    T(lseek(one, 3, SEEK_SET));
    free = dup(one);
    T(read(free, b, 2));
    S(b);
    T(read(one, b, 2));
    S(b);
    close(free);
    T(write(one, "x", 1));
    T(read(one, (void *)16, 1));
    T(fcntl(one, F_GETFD));
    T(fcntl(one, F_GETFL) & O_ACCMODE);
    close(one);
    T(read(one, b, 1));
    T(close(one));
    one = open(page, O_RDONLY | O_CLOEXEC);
    T(fcntl(one, F_GETFD));
    close(one);
    close(two);
    doze(60);
    often(page);
    one = open(page, O_RDONLY);
    T(lseek(one, 5, SEEK_SET));
    T(IN_CHILD({
        if (read(one, b, 2) != 2 || b[0] != '5')
            _exit(1);
    }));
    T(read(one, b, 2));
    S(b);
    close(one);
    doze(60);
    often(page);
    // The number of one that was read many times is another file's.
    put(other, "abcdefghij");
    doze(60);
    for (int times = 0; times < 6; times++) {
        one = open(other, O_RDONLY);
        for (int at = 0; at < 12; at++)
            pread(one, b, 1, at % 10);
        close(one);
    }
    T(open(page, O_RDWR) == one);
    memset(b, 0, 100);
    T(pread(one, b, 100, 2));
    S(b);
    T(read(one, b, 3));
    S(b);
    close(one);
    // Another file has taken its place when it is closed.
    sprintf(link, "%s/third", here);
    put(link, "third");
    doze(60);
    for (int times = 0; times < 6; times++) {
        one = open(link, O_RDONLY);
        int two = open(page, O_RDONLY);
        dup2(two, one);
        close(two);
        close(one);
        S(get(link));
    }
    // In the place of one that was closed.
    one = open(page, O_RDONLY);
    close(one);
    T(dup2(0, one) == one);
    T(fcntl(one, F_GETFL) == fcntl(0, F_GETFL));
    close(one);
    int p[2];
    pipe(p);
    one = open(page, O_RDONLY);
    off_t from = 2;
    T(sendfile(p[1], one, &from, 5));
    T(from);
    T(sendfile(p[1], one, 0, 3));
    T(lseek(one, 0, SEEK_CUR));
    T(sendfile(p[1], one, 0, 100));
    T(sendfile(p[1], one, 0, 100));
    memset(b, 0, 100);
    T(read(p[0], b, 100));
    S(b);
    char *mapped = mmap(0, 10, PROT_READ, MAP_PRIVATE, one, 0);
    T(memcmp(mapped, "0123", 4));
    // Changed while it is open.
    T(truncate(page, 4));
    struct stat status;
    T(fstat(one, &status));
    T(status.st_size);
    T(pread(one, b, 100, 0));
    T(unlink(page));
    T(fstat(one, &status));
    T(status.st_nlink);
    close(one);
}

void places(void) {
    struct stat status;
    int file = open("places", O_RDWR | O_CREAT, 0644), other = open("places", O_RDWR);
    memset(b, 'a', sizeof b);
    for (int at = 0; at < 12; at++)
        T(pwrite(file, b, 1000, at * 1000));
    T(fstat(file, &status));
    T(status.st_size);
    T(pwrite(file, "here", 4, 11998));
    T(pread(file, b, 100, 11990));
    S(b[8] == 'h' ? "h" : "?");
    T(pread(other, b, 100, 11990));
    S(b[11] == 'e' ? "e" : "?");
    T(pread(file, b, 10, 12002));
    T(pread(file, b, 10, 50000));
    T(pwrite(file, "far", 3, 20000));
    T(pread(file, b, 10, 19998));
    T(b[0] + b[1] + b[2]);
    for (int at = 0; at < 12; at++)
        pwrite(other, "bb", 2, at * 7);
    T(pread(file, b, 4, 7));
    T(b[0] + b[1]);
    T(ftruncate(file, 5000));
    T(pread(file, b, 100, 4990));
    T(pread(file, b, 100, 6000));
    T(pwrite(file, "end", 3, 5000));
    T(ftruncate(file, 9000));
    T(pread(file, b, 100, 8000));
    T(b[0] + b[99]);
    T(lseek(file, 0, SEEK_END));
    T(write(file, "tail", 4));
    T(pread(file, b, 100, 9000));
    T(pwrite(file, (void *)16, 10, 100));
    T(pread(file, (void *)16, 10, 100));
    T(pwrite(file, b, 10, -1));
    T(IN_CHILD({
        for (int at = 0; at < 12; at++)
            pwrite(file, "cc", 2, 9004 + 2 * at);
        _exit(pread(file, b, 100, 9004));
    }));
    T(pread(file, b, 100, 9004));
    T(b[0] + b[23]);
    char *mapped = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    T(pwrite(file, "seen", 4, 4094));
    T(memcmp(mapped + 4094, "seen", 4));
    mapped[100] = 'Z';
    T(pread(file, b, 1, 100));
    T(b[0]);
    T(truncate("places", 100));
    T(pread(file, b, 200, 0));
    munmap(mapped, 8192);
    for (int at = 0; at < 100; at++)
        pwrite(file, "0123456789", 10, 100 + at * 10);
    T(fsync(file));
    T(fstat(other, &status));
    T(status.st_size);
    T(pread(other, b, 10, 1090));
    close(other);
    T(dup2(0, file) == file);
    T(pread(file, b, 1, 0) == -1 || 1);
    close(file);
    file = open("places", O_RDONLY);
    for (int at = 0; at < 12; at++)
        T(pread(file, b, 10, at * 100));
    T(pwrite(file, "x", 1, 0));
    // Made longer by somebody else.
    T(IN_CHILD({
        int mine = open("places", O_WRONLY | O_APPEND);
        _exit(write(mine, "more", 4) != 4);
    }));
    T(pread(file, b, 100, 1098));
    close(file);
}

// Calls in the manner of none of the C library's: what stands before the instruction looks like what does there, by its
// last bytes. Each gives what the call gave, and what became of the register that really was set.
static long eighth_is_set(void) {
    long result;
    register long eighth __asm__("r8");
    __asm__ volatile("mov $24, %%eax\n\tmov $39, %%r8d\n\tsyscall"
                     : "=a"(result), "=r"(eighth)
                     :
                     : "rcx", "r11", "memory");
    return result * 100 + eighth;
}

static long eighth_is_zeroed(void) {
    long result;
    register long eighth __asm__("r8") = 7;
    __asm__ volatile("mov $24, %%eax\n\txor %%r8d, %%r8d\n\tsyscall\n\tcmp $-4096, %%rax"
                     : "=a"(result), "+r"(eighth)
                     :
                     : "rcx", "r11", "memory", "cc");
    return result * 100 + eighth;
}

static long address_is_made(void) {
    long result;
    char *address;
    __asm__ volatile("mov $24, %%eax\n\tlea 0x100(%%rax), %%rdi\n\tsyscall"
                     : "=&a"(result), "=&D"(address)
                     :
                     : "rcx", "r11", "memory");
    return result * 1000 + (long)address;
}

static long read_by_zero(int file) {
    long result;
    __asm__ volatile("xor %%eax, %%eax\n\tsyscall\n\tcmp $-4096, %%rax"
                     : "=&a"(result)
                     : "D"((long)file), "S"(b), "d"(9L)
                     : "rcx", "r11", "memory", "cc");
    return result;
}

void instructions(void) {
    int zeros = open("/dev/zero", O_RDONLY);
    for (int times = 0; times < 3; times++) {
        T(eighth_is_set());
        T(eighth_is_zeroed());
        T(address_is_made());
        T(read_by_zero(zeros));
    }
    close(zeros);
}
