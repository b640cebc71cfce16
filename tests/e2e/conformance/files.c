// Files, directories, descriptors, locks.
#include "case.h"
#include <dirent.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/statfs.h>
#include <sys/uio.h>
#include <sys/xattr.h>

static long size_of(const char *path) {
    struct stat it;
    return stat(path, &it) ? -1 : (long)it.st_size;
}

static long mode_of(const char *path) {
    struct stat it;
    return lstat(path, &it) ? -1 : (long)it.st_mode;
}

static long links_of(const char *path) {
    struct stat it;
    return stat(path, &it) ? -1 : (long)it.st_nlink;
}

static long first(const char *bytes) { return (unsigned char)bytes[0]; }

void files(void) {
    char b[64] = {0};
    struct stat it;
    T(open("a", O_RDONLY));
    T(open("a", O_RDWR | O_CREAT | O_EXCL, 0644));
    T(open("a", O_RDWR | O_CREAT | O_EXCL, 0644));
    T(write(3, "hello", 5));
    T(lseek(3, 0, SEEK_CUR));
    T(lseek(3, -2, SEEK_END));
    T(read(3, b, 64));
    S(b);
    T(read(3, b, 64));
    T(lseek(3, -9, SEEK_SET));
    T(lseek(3, 0, 9));
    T(lseek(3, 100, SEEK_SET));
    T(write(3, "x", 1));
    T(size_of("a"));
    T(pread(3, b, 4, 1));
    T(first(b));
    T(pread(3, b, 4, -1));
    T(pwrite(3, "J", 1, 0));
    T(pwrite(3, "J", 1, -5));
    T(lseek(3, 0, SEEK_CUR));
    T(lseek(3, 5, SEEK_DATA) >= 5);
    T(lseek(3, 5, SEEK_HOLE) >= 5);
    struct iovec v[2] = {{b, 2}, {b + 8, 3}};
    T(lseek(3, 0, SEEK_SET));
    T(readv(3, v, 2));
    T(memcmp(b + 8, "llo", 3));
    T(readv(3, v, -1));
    T(readv(3, v, 2000));
    T(readv(3, v, 0));
    T(writev(3, v, 2));
    T(preadv(3, v, 2, 0));
    T(pwritev(3, v, 2, 0));
    T(preadv2(3, v, 2, -1, 0) >= 0);
    T(ftruncate(3, 3));
    T(size_of("a"));
    T(ftruncate(3, -1));
    T(truncate("a", 10));
    T(truncate("missing", 10));
    T(size_of("a"));
    T(open("a", O_WRONLY | O_APPEND));
    T(write(4, "end", 3));
    T(size_of("a"));
    T(read(4, b, 1));
    T(lseek(4, 0, SEEK_CUR));
    T(pwrite(4, "Z", 1, 0));
    T(size_of("a"));
    T(fcntl(4, F_GETFL) & (O_ACCMODE | O_APPEND | O_NONBLOCK));
    T(fcntl(4, F_SETFL, O_NONBLOCK));
    T(fcntl(4, F_GETFL) & (O_ACCMODE | O_APPEND | O_NONBLOCK));
    T(close(4));
    T(close(4));
    T(open("a", O_RDONLY));
    T(write(4, "x", 1));
    T(ftruncate(4, 1));
    T(close(4));
    T(open("a", O_RDWR | O_TRUNC));
    T(size_of("a"));
    T(read(4, b, 0));
    T(read(4, NULL, 5));
    T(write(4, NULL, 5));
    T(write(4, (void *)16, 5));
    T(read(99, b, 1));
    T(write(-1, b, 1));
    T(open("a/b", O_RDONLY));
    T(open("", O_RDONLY));
    T(open((char *)8, O_RDONLY));
    T(open("a", O_RDONLY | O_DIRECTORY));
    T(open(".", O_RDONLY | O_DIRECTORY));
    T(read(5, b, 1));
    T(open(".", O_RDWR));
    T(open("nodir/x", O_CREAT | O_RDWR, 0600));
    char name[300];
    memset(name, 'n', 299);
    name[299] = 0;
    T(open(name, O_CREAT | O_RDWR, 0600));
    T(openat(5, "b", O_CREAT | O_RDWR, 0666));
    T(mode_of("b"));
    T(openat(3, "b", O_RDONLY));
    T(openat(77, "b", O_RDONLY));
    T(openat(77, "/dev/null", O_RDONLY) >= 0);
    T(umask(077));
    T(open("c", O_CREAT | O_RDWR, 0777) >= 0);
    T(mode_of("c"));
    T(mkdir("d", 0777));
    T(mode_of("d"));
    T(umask(022));
    T(creat("e", 0600) >= 0);
    T(symlink("a", "l"));
    T(symlink("a", "l"));
    T(mode_of("l") & S_IFMT);
    memset(b, 0, sizeof b);
    T(readlink("l", b, 64));
    S(b);
    T(readlink("l", b, 0));
    T(readlink("a", b, 64));
    T(readlink("zz", b, 64));
    T(open("l", O_RDONLY | O_NOFOLLOW));
    T(symlink("loop", "loop"));
    T(open("loop", O_RDONLY));
    T(link("a", "a2"));
    T(links_of("a"));
    T(link("a", "a2"));
    T(link("missing", "a3"));
    T(link("d", "d2"));
    T(linkat(AT_FDCWD, "l", AT_FDCWD, "l2", 0));
    T(linkat(AT_FDCWD, "l", AT_FDCWD, "l3", AT_SYMLINK_FOLLOW));
    T(mode_of("l2") & S_IFMT);
    T(mode_of("l3") & S_IFMT);
    T(unlink("a2"));
    T(unlink("a2"));
    T(unlink("d"));
    T(unlink("l3"));
    T(rename("b", "bb"));
    T(rename("b", "bbb"));
    T(rename("bb", "d"));
    T(rename("d", "bb"));
    T(rename("bb", "c"));
    T(renameat2(AT_FDCWD, "c", AT_FDCWD, "e", RENAME_NOREPLACE));
    T(renameat2(AT_FDCWD, "c", AT_FDCWD, "e", RENAME_EXCHANGE));
    T(renameat2(AT_FDCWD, "c", AT_FDCWD, "e", 99));
    T(chmod("c", 0741));
    T(mode_of("c"));
    T(chmod("c", 04755));
    T(mode_of("c"));
    T(chmod("missing", 0));
    T(fchmod(3, 0600));
    T(fchmodat(AT_FDCWD, "c", 0644, 0));
    T(access("c", R_OK | W_OK));
    T(access("c", X_OK));
    T(access("missing", F_OK));
    T(access("c", 99));
    T(faccessat(AT_FDCWD, "c", R_OK, AT_EACCESS));
    T(fstat(3, &it));
    T(it.st_mode);
    T(it.st_nlink);
    T(fstat(99, &it));
    T(stat("c", NULL));
    T(fstatat(AT_FDCWD, "l", &it, AT_SYMLINK_NOFOLLOW));
    T(it.st_size);
    T(fstatat(3, "", &it, AT_EMPTY_PATH));
    T(fstatat(AT_FDCWD, "l", &it, 0x8000000));
    struct statx x;
    T(statx(AT_FDCWD, "c", 0, STATX_BASIC_STATS, &x));
    T(x.stx_mode);
    struct timespec when[2] = {{1000, 5}, {2000, 7}};
    T(utimensat(AT_FDCWD, "c", when, 0));
    T(stat("c", &it));
    T(it.st_mtim.tv_sec * 1000 + it.st_mtim.tv_nsec);
    T(it.st_atim.tv_sec * 1000 + it.st_atim.tv_nsec);
    when[0].tv_nsec = UTIME_OMIT;
    when[1].tv_nsec = UTIME_NOW;
    T(utimensat(AT_FDCWD, "c", when, 0));
    T(stat("c", &it));
    T(it.st_atim.tv_sec);
    T(it.st_mtim.tv_sec > 1000000);
    T(futimens(3, NULL));
    struct timeval old[2] = {{30, 0}, {40, 0}};
    T(utimes("c", old));
    T(stat("c", &it));
    T(it.st_mtim.tv_sec);
    when[1].tv_nsec = 2000000000;
    T(utimensat(AT_FDCWD, "c", when, 0));
    T(posix_fallocate(3, 0, 8192));
    T(size_of("a"));
    T(fallocate(3, FALLOC_FL_KEEP_SIZE, 0, 16384));
    T(fallocate(3, 0, -1, 5));
    T(posix_fadvise(3, 0, 0, POSIX_FADV_DONTNEED));
    T(fsync(3));
    T(fdatasync(3));
    T(fsync(99));
    T(syscall(SYS_syncfs, 3));
    T(lseek(3, 0, SEEK_SET));
    T(open("to", O_CREAT | O_RDWR, 0600) >= 0);
    int to = open("to", O_RDWR);
    T(sendfile(to, 3, NULL, 100));
    off_t offset = 5;
    T(sendfile(to, 3, &offset, 100));
    T(offset);
    T(size_of("to"));
    T(sendfile(99, 3, NULL, 1));
    loff_t in = 0, out = 3;
    T(copy_file_range(3, &in, to, &out, 50, 0));
    T(in * 1000 + out);
    struct statfs fs;
    T(statfs(".", &fs));
    T(fstatfs(3, &fs));
    T(statfs("missing", &fs));
    T(mknod("node", S_IFREG | 0600, 0));
    T(mode_of("node"));
    T(mknod("node", S_IFREG | 0600, 0));
    T(open("c", O_PATH) >= 0);
    int path = open("c", O_PATH);
    T(read(path, b, 1));
    T(fstat(path, &it));
    T(open(".", O_TMPFILE | O_RDWR, 0600) >= 0);
    T(rmdir("d"));
    T(chown("c", -1, -1));
    T(fchown(3, 0, 0));
    T(lchown("l", 0, 0));
    T(chown("missing", 0, 0));
}

void directories(void) {
    char b[PATH_MAX];
    T(mkdir("one", 0755));
    T(mkdir("one", 0755));
    T(mkdir("no/one", 0755));
    T(mkdir("one/two", 0700));
    T(rmdir("one"));
    T(rmdir("missing"));
    T(creat("one/file", 0644));
    T(rmdir("one/file"));
    T(chdir("one"));
    T(getcwd(b, sizeof b) != NULL);
    S(strrchr(b, '/'));
    T(syscall(SYS_getcwd, b, 3));
    T(chdir("missing"));
    T(chdir("file"));
    T(chdir("two"));
    T(open("..", O_RDONLY | O_DIRECTORY));
    T(chdir("/"));
    T(getcwd(b, sizeof b) != NULL);
    S(b);
    T(fchdir(4));
    T(getcwd(b, sizeof b) != NULL);
    S(strrchr(b, '/'));
    T(fchdir(3));
    T(fchdir(99));
    T(unlinkat(4, "two", 0));
    T(unlinkat(4, "two", AT_REMOVEDIR));
    T(mkdirat(4, "three", 0777));
    for (int i = 0; i < 300; i++) {
        snprintf(b, sizeof b, "three/entry%d", i);
        close(creat(b, 0600));
    }
    DIR *dir = opendir("three");
    int entries = 0, types = 0;
    for (struct dirent *it; (it = readdir(dir));) {
        entries++;
        types += it->d_type == DT_REG;
    }
    T(entries);
    T(types);
    rewinddir(dir);
    T(readdir(dir) != NULL);
    T(closedir(dir));
    T(opendir("missing") == NULL ? -1 : 0);
    T(opendir("file") == NULL ? -1 : 0);
    T(syscall(SYS_getdents64, 3, b, sizeof b));
    T(syscall(SYS_getdents64, 4, b, 4));
    // A directory that is somebody's working directory may be removed.
    T(mkdir("gone", 0700));
    T(chdir("gone"));
    T(rmdir("../gone"));
    T(syscall(SYS_getcwd, b, sizeof b));
    T(open("x", O_CREAT | O_RDWR, 0600));
    T(chdir(".."));
    T(chdir("/") + (chroot("/") == 0 ? 0 : 0));
    T(rename("one", "one/two/three"));
}

void descriptors(void) {
    T(open("/dev/null", O_RDWR));
    T(dup(3));
    T(dup2(3, 20));
    T(dup2(3, 3));
    T(dup2(99, 5));
    T(dup2(99, 99));
    T(dup2(3, -1));
    T(dup2(3, 10000000));
    T(dup3(3, 21, O_CLOEXEC));
    T(dup3(3, 3, 0));
    T(dup3(3, 22, 1));
    T(dup(99));
    T(fcntl(21, F_GETFD));
    T(fcntl(20, F_GETFD));
    T(fcntl(20, F_SETFD, FD_CLOEXEC));
    T(fcntl(20, F_GETFD));
    T(fcntl(3, F_DUPFD, 10));
    T(fcntl(3, F_DUPFD_CLOEXEC, 10));
    T(fcntl(11, F_GETFD));
    T(fcntl(3, F_DUPFD, -1));
    T(fcntl(99, F_GETFD));
    T(fcntl(3, 9999));
    T(open("/dev/null", O_RDWR | O_CLOEXEC));
    T(fcntl(5, F_GETFD));
    // The position is the open file's, and so are its flags.
    T(open("f", O_CREAT | O_RDWR, 0600));
    T(dup(6));
    T(write(6, "abc", 3));
    T(lseek(7, 0, SEEK_CUR));
    T(fcntl(7, F_SETFL, O_APPEND | O_NONBLOCK));
    T(fcntl(6, F_GETFL) & (O_APPEND | O_NONBLOCK));
    T(IN_CHILD(lseek(6, 1, SEEK_SET)));
    T(lseek(7, 0, SEEK_CUR));
    T(syscall(SYS_close_range, 6, 7, 0));
    T(fcntl(6, F_GETFD));
    T(syscall(SYS_close_range, 10, 5, 0));
    T(syscall(SYS_close_range, 3, 4, 4));
    T(fcntl(3, F_GETFD));
    T(close(-1));
    T(ioctl(3, 0x5401 /* TCGETS */, NULL));
    int n = 1;
    (void)n;
    T(isatty(3));
    T(syscall(SYS_kcmp, getpid(), getpid(), 0, 3, 4) <= 2);
}

static struct flock lock(short kind, long start, long length) {
    return (struct flock){.l_type = kind, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
}

void process_locks(void) {
    struct flock l = lock(F_WRLCK, 0, 10);
    T(open("f", O_CREAT | O_RDWR, 0600));
    T(fcntl(3, F_SETLK, &l));
    T(fcntl(3, F_SETLK, &l));
    l = lock(F_WRLCK, 0, 10);
    T(fcntl(3, F_GETLK, &l));
    T(l.l_type);
    pid_t own = getpid();
    T(IN_CHILD({
        struct flock m = lock(F_WRLCK, 5, 1);
        T(fcntl(3, F_SETLK, &m));
        T(fcntl(3, F_GETLK, &m));
        T(m.l_type);
        T(m.l_pid == own);
        T(m.l_start * 100 + m.l_len);
        m = lock(F_WRLCK, 20, 1);
        T(fcntl(3, F_SETLK, &m));
    }));
    // A child's locks end with it.
    l = lock(F_WRLCK, 20, 1);
    T(fcntl(3, F_SETLK, &l));
    // Another descriptor of the same process is in nobody's way, and closing it gives all of them up.
    T(open("f", O_RDWR));
    l = lock(F_WRLCK, 0, 10);
    T(fcntl(4, F_SETLK, &l));
    T(close(4));
    T(IN_CHILD({
        struct flock m = lock(F_WRLCK, 0, 10);
        T(fcntl(3, F_SETLK, &m));
    }));
    l = lock(F_RDLCK, 0, 0);
    T(fcntl(3, F_SETLK, &l));
    T(IN_CHILD({
        struct flock m = lock(F_RDLCK, 0, 0);
        T(fcntl(3, F_SETLK, &m));
        m = lock(F_WRLCK, 0, 0);
        T(fcntl(3, F_SETLK, &m));
    }));
    l = lock(F_UNLCK, 0, 0);
    T(fcntl(3, F_SETLK, &l));
    l = lock(99, 0, 0);
    T(fcntl(3, F_SETLK, &l));
    // Waiting for one.
    int ends[2];
    T(pipe(ends));
    pid_t child = START({
        struct flock m = lock(F_WRLCK, 0, 0);
        fcntl(3, F_SETLK, &m);
        write(ends[1], "x", 1);
        doze(200);
    });
    char byte;
    read(ends[0], &byte, 1);
    l = lock(F_WRLCK, 0, 0);
    long long begin = now();
    T(fcntl(3, F_SETLKW, &l));
    T(now() - begin > 100000000);
    T(waitpid(child, NULL, 0) == child);
    l = lock(F_UNLCK, 0, 0);
    fcntl(3, F_SETLK, &l);
    // Parts: split, joined, made weaker.
    l = lock(F_WRLCK, 0, 100);
    T(fcntl(3, F_SETLK, &l));
    l = lock(F_UNLCK, 40, 20);
    T(fcntl(3, F_SETLK, &l));
    l = lock(F_RDLCK, 60, 10);
    T(fcntl(3, F_SETLK, &l));
    T(IN_CHILD({
        struct flock m = lock(F_WRLCK, 45, 10);
        T(fcntl(3, F_SETLK, &m));
        m = lock(F_RDLCK, 65, 0);
        T(fcntl(3, F_GETLK, &m));
        T(m.l_start * 1000 + m.l_len);
        m = lock(F_WRLCK, 41, 0);
        T(fcntl(3, F_GETLK, &m));
        T(m.l_start * 1000 + m.l_len * 10 + m.l_type);
        m = lock(F_RDLCK, 60, 10);
        T(fcntl(3, F_SETLK, &m));
        m = lock(F_RDLCK, 59, 10);
        T(fcntl(3, F_SETLK, &m) == 0);
        m = lock(F_RDLCK, 39, 1);
        T(fcntl(3, F_SETLK, &m));
    }));
    // From the end, from the position, backwards.
    T(ftruncate(3, 500));
    T(lseek(3, 200, SEEK_SET));
    l = lock(F_UNLCK, 0, 0);
    fcntl(3, F_SETLK, &l);
    l = lock(F_WRLCK, -10, 5);
    l.l_whence = SEEK_END;
    T(fcntl(3, F_SETLK, &l));
    l = lock(F_WRLCK, 0, -7);
    l.l_whence = SEEK_CUR;
    T(fcntl(3, F_SETLK, &l));
    T(IN_CHILD({
        struct flock m = lock(F_WRLCK, 0, 0);
        T(fcntl(3, F_GETLK, &m));
        T(m.l_start * 1000 + m.l_len);
        m = lock(F_WRLCK, 300, 0);
        T(fcntl(3, F_GETLK, &m));
        T(m.l_start * 1000 + m.l_len);
        m = lock(F_WRLCK, 2, 5);
        T(fcntl(3, F_GETLK, &m));
        T(m.l_type * 100 + m.l_start * 10 + m.l_len);
    }));
    l = lock(F_WRLCK, 5, -6);
    T(fcntl(3, F_SETLK, &l));
    l.l_whence = 9;
    T(fcntl(3, F_SETLK, &l));
    T(fcntl(99, F_SETLK, &l));
    T(fcntl(3, F_SETLK, (void *)8));
    // Who may only read cannot lock to write.
    int reading = open("f", O_RDONLY);
    l = lock(F_WRLCK, 0, 1);
    T(fcntl(reading, F_SETLK, &l));
    l = lock(F_RDLCK, 0, 1);
    T(fcntl(reading, F_SETLK, &l));
    // To write by one descriptor what is locked to read by another.
    l = lock(F_WRLCK, 0, 1);
    T(fcntl(3, F_SETLK, &l));
    // Putting another file in the place of a descriptor closes it.
    T(dup2(1, reading) == reading);
    T(IN_CHILD({
        struct flock m = lock(F_WRLCK, 0, 0);
        T(fcntl(3, F_SETLK, &m));
    }));
    close(reading);
    // Two that wait for each other.
    l = lock(F_WRLCK, 0, 1);
    T(fcntl(3, F_SETLK, &l));
    child = START({
        struct flock m = lock(F_WRLCK, 1, 1);
        fcntl(3, F_SETLK, &m);
        write(ends[1], "x", 1);
        m = lock(F_WRLCK, 0, 1);
        _exit(fcntl(3, F_SETLKW, &m) ? 1 : 0);
    });
    read(ends[0], &byte, 1);
    doze(150);
    l = lock(F_WRLCK, 1, 1);
    T(fcntl(3, F_SETLKW, &l));
    l = lock(F_UNLCK, 0, 0);
    T(fcntl(3, F_SETLK, &l));
    int status = 0;
    T(waitpid(child, &status, 0) == child);
    T(status);
    // A signal ends the waiting.
    child = START({
        struct flock m = lock(F_WRLCK, 0, 0);
        fcntl(3, F_SETLK, &m);
        write(ends[1], "x", 1);
        doze(5000);
    });
    read(ends[0], &byte, 1);
    handle(SIGALRM, 0);
    ualarm(50000, 0);
    T(fcntl(3, F_SETLKW, &l));
    l = lock(F_WRLCK, 0, 0);
    ualarm(50000, 0);
    T(fcntl(3, F_SETLKW, &l));
    T(kill(child, SIGKILL));
    T(waitpid(child, NULL, 0) == child);
    T(fcntl(3, F_SETLK, &l));
    // Another program has them still, as long as no descriptor of the file is closed for it.
    T(IN_CHILD({
        struct flock m = lock(F_WRLCK, 0, 0);
        T(fcntl(3, F_SETLK, &m));
    }));
}

// Of the open file.
void locks(void) {
    T(open("f", O_CREAT | O_RDWR, 0600));
    struct flock l = lock(F_WRLCK, 0, 0);
    T(fcntl(3, F_OFD_SETLK, &l));
    T(open("f", O_RDWR) >= 0);
    int other = open("f", O_RDWR);
    T(fcntl(other, F_OFD_SETLK, &l));
    l = lock(F_UNLCK, 0, 0);
    T(fcntl(3, F_OFD_SETLK, &l));
    T(flock(3, LOCK_EX));
    T(flock(other, LOCK_EX | LOCK_NB));
    T(flock(other, LOCK_SH | LOCK_NB));
    T(flock(3, LOCK_SH));
    T(flock(other, LOCK_SH | LOCK_NB));
    T(flock(3, LOCK_UN));
    T(flock(other, LOCK_EX | LOCK_NB));
    T(flock(99, LOCK_EX));
    T(flock(3, 0));
}

void lock_waits(void) {
    int one = open("f", O_CREAT | O_RDWR, 0600), other = open("f", O_RDWR);
    T(flock(other, LOCK_EX));
    pid_t child = START({
        doze(200);
        flock(other, LOCK_UN);
    });
    long long begin = now();
    T(flock(one, LOCK_EX));
    T(now() - begin > 100000000);
    T(waitpid(child, NULL, 0) == child);
}
