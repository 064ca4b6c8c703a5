/* What the tests let run under cgrove: small programs that do one odd thing each.
 *
 *     acts WHAT MARK [ARG]
 *
 * MARK is never read: it makes the process recognisable in /proc by whoever started it, whatever
 * the program does to its environment, its session or its parents. Processes that are to stay wait
 * in pause(). Everything is said on standard output, a line at a time.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h> /* CLONE_CLEAR_SIGHAND, struct clone_args */
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static void fail(const char *what) {
    fprintf(stderr, "acts: %s: %s\n", what, strerror(errno));
    _exit(90);
}

static void stay(void) {
    for (;;) pause();
}

/* Uses this much CPU time of the calling process. */
static void burn(long ms) {
    struct timespec now;
    do {
        for (volatile int i = 0; i < 10000; i++) {}
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    } while (now.tv_sec * 1000 + now.tv_nsec / 1000000 < ms);
}

static pid_t must_fork(void) {
    pid_t pid = fork();
    if (pid < 0) fail("fork");
    return pid;
}

static void must_pipe(int ends[2]) {
    if (pipe(ends)) fail("pipe");
}

/* Blocks until the other end was written to. */
static void await(int fd) {
    char byte;
    if (read(fd, &byte, 1) != 1) fail("the other side went away");
}

static void tell(int fd) {
    if (write(fd, "", 1) != 1) fail("write");
}

/* Forks twice, leaves the session, forgets its environment and works on. */
static int act_daemon(long ms) {
    int ends[2];
    must_pipe(ends);
    if (must_fork() == 0) {
        setsid();
        if (must_fork() != 0) _exit(0);
        clearenv();
        if (chdir("/")) fail("chdir");
        for (int fd = 0; fd < 256; fd++)
            if (fd != ends[1]) close(fd);
        burn(ms);
        tell(ends[1]);
        close(ends[1]);
        stay();
    }
    await(ends[0]);
    return 0;
}

/* Every process forks as often as it can, and none ends. */
static int act_bomb(void) {
    int said = 0;
    for (;;) {
        pid_t pid = fork();
        if (pid < 0 && !said) {
            char line[40];
            int len = snprintf(line, sizeof line, "refused %d\n", errno);
            if (write(1, line, len) != len) _exit(91);
            said = 1;
        }
    }
}

/* How many tasks live at once, counted by themselves. */
struct census { atomic_long live, most, forks, refused, chains; };

static struct census *shared_census(void) {
    struct census *shared =
        mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) fail("mmap");
    shared->live = 1;
    return shared;
}

static void born(struct census *shared) {
    long live = atomic_fetch_add(&shared->live, 1) + 1, most = shared->most;
    while (live > most && !atomic_compare_exchange_weak(&shared->most, &most, live)) {}
}

static void say_census(struct census *shared) {
    printf("forks %ld refused %ld most %ld\n", shared->forks, shared->refused, shared->most);
}

/* A bomb whose children end. */
static int act_churn(long forks) {
    struct census *shared = shared_census();
    while (shared->forks < forks) {
        pid_t pid = fork();
        if (pid == 0) {
            born(shared);
            shared->live--;
            _exit(0);
        }
        if (pid > 0) shared->forks++;
        else if (errno == EAGAIN) { shared->refused++; while (waitpid(-1, NULL, 0) > 0 && shared->refused % 2) {} }
        else fail("fork");
    }
    while (waitpid(-1, NULL, 0) > 0) {}
    say_census(shared);
    return 0;
}

/* Chains of processes, each of which forks the next and ends: whoever walks the tree finds that
 * the parents he came by are gone. */
static int act_relay(long forks) {
    enum { CHAINS = 8 };
    struct census *shared = shared_census();
    shared->chains = CHAINS;
    for (int i = 0; i < CHAINS; i++) {
        pid_t first;
        /* A zombie has its place until it is waited for. */
        while ((first = fork()) < 0) { shared->refused++; waitpid(-1, NULL, WNOHANG); }
        if (first > 0) { shared->forks++; continue; }
        born(shared);
        while (shared->forks < forks) {
            pid_t pid = fork();
            if (pid == 0) { born(shared); continue; }
            if (pid > 0) {
                shared->forks++;
                /* Long enough to be seen with its child. */
                for (volatile int turn = 0; turn < shared->forks % 64 * 2000; turn++) {}
                shared->live--;
                _exit(0);
            }
            if (errno != EAGAIN) fail("fork");
            shared->refused++;
        }
        shared->live--;
        shared->chains--;
        _exit(0);
    }
    while (shared->chains) {
        waitpid(-1, NULL, WNOHANG);
        usleep(1000);
    }
    say_census(shared);
    return 0;
}

/* Fills the group to its limit, then again and again makes room for one and takes it at once. */
static int act_fill(long rounds) {
    static pid_t children[100000];
    long count = 0;
    for (;;) {
        pid_t pid = fork();
        if (pid == 0) stay();
        if (pid < 0) break;
        children[count++] = pid;
    }
    int why = errno;
    long early = 0;
    for (long i = 0; i < rounds && count > 0; i++) {
        pid_t *child = &children[i % count];
        kill(*child, SIGKILL);
        if (waitpid(*child, NULL, 0) != *child) fail("waitpid");
        *child = fork();
        if (*child == 0) stay();
        if (*child < 0) { early = i + 1; break; }
    }
    printf("children %ld errno %d refused-too-early %ld\n", count, why, early);
    fflush(stdout);
    for (long i = 0; i < count; i++)
        if (children[i] > 0) kill(children[i], SIGKILL);
    return 0;
}

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;

static void *wait_at_gate(void *arg) {
    pthread_mutex_lock(&gate);
    pthread_mutex_unlock(&gate);
    return arg;
}

/* Makes n threads that live at the same time. */
static int act_threads(long n) {
    pthread_t *threads = calloc(n, sizeof *threads);
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 64 * 1024);
    pthread_mutex_lock(&gate);
    long made = 0;
    int error = 0;
    while (made < n && !(error = pthread_create(&threads[made], &small, wait_at_gate, NULL))) made++;
    printf("threads %ld errno %d\n", made, error);
    fflush(stdout);
    pthread_mutex_unlock(&gate);
    for (long i = 0; i < made; i++) pthread_join(threads[i], NULL);
    return 0;
}

static int finish(pid_t pid) {
    int status;
    if (waitpid(pid, &status, __WALL) != pid) fail("waitpid");
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int act_vfork(long n) {
    for (long i = 0; i < n; i++) {
        pid_t pid = vfork();
        if (pid < 0) fail("vfork");
        if (pid == 0) {
            execl("/bin/true", "true", (char *)NULL);
            _exit(92);
        }
        if (finish(pid)) return 1;
    }
    return 0;
}

static int act_spawn(long n) {
    char *argv[] = { "true", NULL };
    for (long i = 0; i < n; i++) {
        pid_t pid;
        int error = posix_spawn(&pid, "/bin/true", NULL, NULL, argv, environ);
        if (error) { errno = error; fail("posix_spawn"); }
        if (finish(pid)) return 1;
    }
    return 0;
}

/* clone3 with flags that clone(2) cannot carry, and with a size the kernel does not know. */
static int act_clone3(void) {
    struct clone_args args;
    memset(&args, 0, sizeof args);
    args.flags = CLONE_CLEAR_SIGHAND;
    args.exit_signal = SIGCHLD;
    long pid = syscall(SYS_clone3, &args, sizeof args);
    if (pid == 0) _exit(0);
    if (pid > 0) printf("clone3 child %d\n", finish(pid));
    else printf("clone3 errno %d\n", errno);
    long odd = syscall(SYS_clone3, &args, (size_t)3);
    printf("odd %ld errno %d\n", odd, errno);
    pid_t plain = must_fork();
    if (plain == 0) _exit(0);
    return finish(plain);
}

/* A child that is a sibling: it belongs to our parent at once. */
/* A child that a tracer is not to have, and that forks. */
static int act_clone_untraced(void) {
    long pid = syscall(SYS_clone, CLONE_UNTRACED | SIGCHLD, 0, 0, 0, 0);
    if (pid < 0) fail("clone");
    if (pid == 0) {
        pid_t own = fork();
        if (own == 0) _exit(0);
        printf("forked %d\n", own < 0 ? -errno : waitpid(own, NULL, 0) == own);
        exit(0);
    }
    waitpid(pid, NULL, 0);
    return 0;
}

static int act_clone_parent(long ms) {
    int ends[2];
    must_pipe(ends);
    long pid = syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0);
    if (pid < 0) fail("clone");
    if (pid == 0) {
        burn(ms);
        tell(ends[1]);
        _exit(0);
    }
    await(ends[0]);
    printf("wait errno %d\n", waitpid(pid, NULL, 0) < 0 ? errno : 0);
    return 0;
}

/* Never waits for its child, which uses some time. */
static int act_ignore_sigchld(long ms) {
    signal(SIGCHLD, SIG_IGN);
    if (must_fork() == 0) {
        burn(ms);
        _exit(0);
    }
    while (wait(NULL) > 0 || errno != ECHILD) {}
    return 0;
}

/* Takes in the orphans of its own tree, and leaves one behind. */
static int act_subreaper(void) {
    int ends[2], gone[2];
    must_pipe(ends);
    must_pipe(gone);
    if (prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)) fail("prctl");
    pid_t me = getpid();
    pid_t middle = must_fork();
    if (middle == 0) {
        if (must_fork() == 0) {
            await(gone[0]);
            /* The orphan says whose child it is now. */
            char mine = getppid() == me;
            if (write(ends[1], &mine, 1) != 1) _exit(93);
            stay();
        }
        _exit(0);
    }
    finish(middle);
    tell(gone[1]);
    char mine;
    if (read(ends[0], &mine, 1) != 1) fail("read");
    printf("orphan is %s\n", mine ? "mine" : "another's");
    return 0;
}

/* Forks until a pid comes back. */
/* A process of many mappings forks slowly. Meanwhile a small one asks for the place that the
   unfinished fork has taken. With room for one of them, both get it only if it is given twice. */
static int act_slow_fork(long rounds) {
    int to[2], from[2];
    must_pipe(to), must_pipe(from);
    pid_t rival = must_fork();
    if (!rival) {
        close(to[1]), close(from[0]);
        for (char byte; read(to[0], &byte, 1) == 1;) {
            struct pollfd over = {.fd = to[0], .events = POLLIN};
            pid_t child = -1;
            /* The other one is to ask first. */
            while (!poll(&over, 1, 5)) {
                if (child < 0 && !(child = fork())) stay();
            }
            if (child > 0) kill(child, SIGKILL), waitpid(child, NULL, 0);
            await(to[0]);
            byte = child > 0;
            if (write(from[1], &byte, 1) != 1) fail("write");
        }
        _exit(0);
    }
    enum { PAGES = 60000 };
    const size_t page = sysconf(_SC_PAGESIZE);
    char *area = mmap(NULL, PAGES * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (area == MAP_FAILED) fail("mmap");
    for (size_t i = 0; i < PAGES; i++) {
        area[i * page] = 1;
        if (i % 2 && mprotect(area + i * page, page, PROT_READ)) fail("mprotect");
    }
    int both = 0;
    while (rounds > 0) {
        tell(to[1]);
        pid_t child = fork();
        if (!child) stay();
        tell(to[1]);
        char got;
        if (read(from[0], &got, 1) != 1) fail("read");
        if (child < 0) continue;
        both += got;
        rounds--;
        kill(child, SIGKILL), waitpid(child, NULL, 0);
    }
    close(to[1]);
    waitpid(rival, NULL, 0);
    printf("both %d\n", both);
    return 0;
}

/* Hides itself and three children from /proc, where that hides what is undumpable. Meanwhile a
   process that can be seen forks and reaps n times, then fills all places that are left. */
static int act_hide(long n) {
    int go[2], done[2];
    must_pipe(go), must_pipe(done);
    pid_t seen = must_fork();
    if (!seen) {
        await(go[0]);
        long refused = 0, alive = 5;
        for (long i = 0; i < n; i++) {
            pid_t child = fork();
            if (!child) _exit(0);
            if (child < 0) refused++;
            else waitpid(child, NULL, 0);
        }
        pid_t child;
        while (alive < 100 && (child = fork()) > 0) alive++;
        if (!child) stay();
        printf("refused %ld alive %ld\n", refused, alive);
        fflush(stdout);
        tell(done[1]);
        stay();
    }
    if (prctl(PR_SET_DUMPABLE, 0)) fail("prctl");
    for (int i = 0; i < 3; i++)
        if (!must_fork()) stay();
    tell(go[1]);
    await(done[0]);
    return 0;
}

static volatile sig_atomic_t got;

static void note(int sig) { got = sig; }

/* Forks while earlier children end, with a handler for that which does not restart calls. A fork
   never fails with EINTR. */
static int act_eintr(long forks) {
    struct sigaction action = {.sa_handler = note};
    if (sigaction(SIGCHLD, &action, NULL)) fail("sigaction");
    long interrupted = 0;
    for (long i = 0; i < forks; i++) {
        pid_t pid = fork();
        if (!pid) {
            for (volatile int turn = 0; turn < i % 32 * 500; turn++) {}
            _exit(0);
        }
        if (pid < 0 && errno == EINTR) interrupted++;
        if (pid < 0 && errno != EINTR) fail("fork");
        if (i % 8 == 7)
            while (waitpid(-1, NULL, 0) > 0 || errno == EINTR) {}
    }
    printf("interrupted %ld\n", interrupted);
    return 0;
}

static int act_pid_reuse(void) {
    pid_t first = must_fork();
    if (first == 0) _exit(0);
    finish(first);
    for (long i = 1; ; i++) {
        pid_t pid = must_fork();
        if (pid == 0) _exit(0);
        finish(pid);
        if (pid == first) {
            printf("came back after %ld\n", i);
            return 0;
        }
    }
}

/* Leaves n children that wait, all of them deaf to the polite signals. */
static int act_leave(long n) {
    for (long i = 0; i < n; i++) {
        if (must_fork() == 0) {
            for (int sig = 1; sig < 32; sig++) signal(sig, SIG_IGN);
            stay();
        }
    }
    return 0;
}


/* Says which signals arrive, until SIGTERM, which ends it with 3. */
static int act_signals(void) {
    sigset_t all, before;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, &before);
    struct sigaction action = { .sa_handler = note };
    sigfillset(&action.sa_mask);
    for (int sig = 1; sig <= SIGRTMAX; sig++)
        if (sig != SIGKILL && sig != SIGSTOP && sig != SIGTSTP && sig != SIGCHLD)
            sigaction(sig, &action, NULL);
    printf("ready\n");
    fflush(stdout);
    for (;;) {
        sigset_t none;
        sigemptyset(&none);
        sigsuspend(&none);
        printf("got %d\n", got);
        fflush(stdout);
        if (got == SIGTERM) return 3;
    }
}

static int act_stubborn(void) {
    for (int sig = 1; sig < 32; sig++) signal(sig, SIG_IGN);
    printf("ready\n");
    fflush(stdout);
    stay();
    return 0;
}

/* Which descriptors are open, and what exec handed down of signals. */
static int act_inherited(void) {
    for (int fd = 0; fd < 1024; fd++)
        if (fcntl(fd, F_GETFD) >= 0) printf("fd %d\n", fd);
    sigset_t mask;
    sigprocmask(SIG_BLOCK, NULL, &mask);
    for (int sig = 1; sig <= SIGRTMAX; sig++) {
        struct sigaction action;
        if (sigismember(&mask, sig)) printf("blocked %d\n", sig);
        if (!sigaction(sig, NULL, &action) && action.sa_handler == SIG_IGN)
            printf("ignored %d\n", sig);
    }
    printf("group %s session %s\n", getpgrp() == getpid() ? "own" : "caller's",
           getsid(0) == getpid() ? "own" : "caller's");
    return 0;
}

/* A tree that never stops changing: forks, threads, daemons (so many, 0: without end), execs. */
static void *thread_of_load(void *arg) { return arg; }

/* Sends the first `n` of `fds` to the door of the run that this is in; 0 if it has none. */
static int knock(const int *fds, int n) {
    struct sockaddr_un door = { .sun_family = AF_UNIX };
    const char *folder = getenv("XDG_RUNTIME_DIR"), *name = getenv("CGROVE");
    if (!name) fail("CGROVE");
    snprintf(door.sun_path, sizeof door.sun_path, "%s/cgrove/%s", folder ? folder : "", name);
    if (access(door.sun_path, F_OK))
        snprintf(door.sun_path, sizeof door.sun_path, "/tmp/cgrove-%d/%s", (int)getuid(), name);
    union { struct cmsghdr head; char bytes[CMSG_SPACE(16 * sizeof(int))]; } control = { 0 };
    struct iovec text = { "x", 1 };
    struct msghdr message = { .msg_name = &door, .msg_namelen = sizeof door, .msg_iov = &text,
                              .msg_iovlen = 1, .msg_control = &control,
                              .msg_controllen = CMSG_SPACE(n * sizeof(int)) };
    control.head = (struct cmsghdr){ .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS,
                                     .cmsg_len = CMSG_LEN(n * sizeof(int)) };
    memcpy(CMSG_DATA(&control.head), fds, n * sizeof(int));
    int from = socket(AF_UNIX, SOCK_DGRAM, 0);
    /* One that nobody receives any more takes nothing in either: do not wait. */
    int sent = sendmsg(from, &message, MSG_DONTWAIT) == 1 || errno == EAGAIN;
    close(from);
    return sent;
}

/* Hands the door a TCP socket whose close takes a minute: its peer has no room for what is still to
 * be sent. Who ends does not linger, so the sender leaves its own copy to its end. */
static int act_linger(void) {
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t len = sizeof at;
    int listener = socket(AF_INET, SOCK_STREAM, 0), status;
    if (bind(listener, (struct sockaddr *)&at, len) || listen(listener, 1)
        || getsockname(listener, (struct sockaddr *)&at, &len)) fail("listen");
    pid_t sender = must_fork();
    if (!sender) {
        static char much[1 << 16];
        struct linger minute = { 1, 60 };
        int out = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(out, (struct sockaddr *)&at, len)) fail("connect");
        while (send(out, much, sizeof much, MSG_DONTWAIT) > 0) {}
        setsockopt(out, SOL_SOCKET, SO_LINGER, &minute, sizeof minute);
        if (!knock(&out, 1)) fail("knock");
        _exit(0);
    }
    waitpid(sender, &status, 0);
    if (status) return 1;
    struct timespec begin, end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    /* Some of these come after the message was received. */
    for (int i = 0; i < 200; i++) {
        pid_t pid = must_fork();
        if (!pid) _exit(0);
        waitpid(pid, NULL, 0);
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    puts(end.tv_sec - begin.tv_sec < 30 ? "forked at once" : "waited");
    return 0;
}

/* Hands the door more descriptors at a time than a request brings, again and again. */
static int act_hand_over(void) {
    int fds[16], ends[2], most = 0, before = -1;
    char path[64];
    must_pipe(ends);
    snprintf(path, sizeof path, "/proc/%d/fd", (int)getppid());
    for (int i = 0; i < 16; i++) fds[i] = ends[0];
    for (int round = 0; round < 300; round++) {
        int open = 0;
        DIR *dir = opendir(path);
        if (!dir) fail(path);
        /* Pipes here, and nowhere else in the supervisor. */
        for (struct dirent *it; (it = readdir(dir));) {
            char to[64];
            ssize_t n = readlinkat(dirfd(dir), it->d_name, to, sizeof to);
            open += n > 5 && !memcmp(to, "pipe:", 5);
        }
        closedir(dir);
        if (before < 0) before = open;
        if (open - before > most) most = open - before;
        if (!knock(fds, 16)) break;
    }
    /* Those of one message may be on their way out; 300 messages would show. */
    puts(most <= 16 ? "few" : "many");
    return 0;
}

static int act_load(const char *self, const char *mark, long daemons) {
    for (unsigned i = 0; ; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            pthread_t t;
            if (i % 3 == 0 && !pthread_create(&t, NULL, thread_of_load, NULL)) pthread_join(t, NULL);
            if (i % 5 == 0 && (!daemons || i < 5 * daemons) && fork() == 0) { setsid(); execl(self, self, "sleep", mark, (char *)NULL); }
            if (i % 4 == 0) execl("/bin/true", "true", (char *)NULL);
            _exit(0);
        }
        if (i % 2) while (waitpid(-1, NULL, WNOHANG) > 0) {}
        if (i == 20) { printf("ready\n"); fflush(stdout); }
        if (i > 20 && i % 64 == 0) {
            struct timespec breath = { 0, 1000000 };
            nanosleep(&breath, NULL);
        }
    }
}

/* From signal handlers too. */
static void say(const char *what, int n) {
    char line[64];
    int len = snprintf(line, sizeof line, "%s %d\n", what, n);
    if (write(1, line, len) != len) _exit(91);
}

static void say_got(int sig) { say("got", sig == SIGRTMIN ? 100 : sig); }

static void catch(int sig, void (*handler)(int)) {
    struct sigaction action = { .sa_handler = handler };
    if (sigaction(sig, &action, NULL)) fail("sigaction");
}

/* A parent that tells whatever it is told of its child, which tells its signals. */
static int act_family(long ms) {
    pid_t child = must_fork();
    if (child == 0) {
        /* In an orphaned process group, which ours may be, nobody stops for SIGTSTP. */
        setpgid(0, 0);
        catch(SIGUSR1, say_got);
        catch(SIGRTMIN, say_got);
        burn(ms);
        say("ready", getpid());
        stay();
    }
    for (;;) {
        int status;
        if (waitpid(child, &status, WUNTRACED | WCONTINUED) != child) fail("waitpid");
        if (WIFSTOPPED(status)) say("stopped", WSTOPSIG(status));
        else if (WIFCONTINUED(status)) say("continued", 0);
        else return say("killed", WTERMSIG(status)), 0;
    }
}

/* A tracer that looks on, and a tracee that forks for each byte on standard input. */
static int act_traced(void) {
    pid_t child = must_fork();
    if (child == 0) {
        for (int n = 1; ; n++) {
            await(0);
            pid_t pid = must_fork();
            if (pid == 0) _exit(0);
            waitpid(pid, NULL, 0);
            say("forked", n);
        }
    }
    if (ptrace(PTRACE_SEIZE, child, 0, 0)) fail("ptrace");
    say("tracee", child);
    for (;;) {
        int status;
        if (waitpid(child, &status, __WALL) != child || !WIFSTOPPED(status)) return 0;
        ptrace(PTRACE_CONT, child, 0, WSTOPSIG(status));
    }
}

static void nothing(int sig) { (void)sig; }

/* A parent that waits in vfork until its child gets SIGUSR1. */
static int act_vfork_wait(void) {
    catch(SIGUSR1, nothing);
    sigset_t none, usr1;
    sigemptyset(&none);
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    sigprocmask(SIG_BLOCK, &usr1, NULL);
    pid_t parent = getpid();
    pid_t child = vfork();
    if (child == 0) {
        say("parent", parent);
        say("child", getpid());
        sigsuspend(&none);
        _exit(0);
    }
    say("back", 0);
    return 0;
}

static char *const *own_args;

static void *exec_again(void *arg) {
    execv("/proc/self/exe", own_args);
    return arg;
}

static void *stay_in_thread(void *arg) {
    stay();
    return arg;
}

/* A thread that executes the program anew while others live, without end. */
static int act_exec_threads(char *const *args) {
    own_args = args;
    pthread_t t;
    for (int i = 0; i < 7; i++)
        if (pthread_create(&t, NULL, i < 6 ? stay_in_thread : exec_again, NULL)) fail("thread");
    stay();
    return 0;
}

/* Undumpable: nobody without CAP_SYS_PTRACE may trace it. */
static int act_undumpable(void) {
    if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)) fail("prctl");
    say("ready", 0);
    stay();
    return 0;
}

/* Memory of this many MiB, there and not only promised. */
static char *take(long mib) {
    size_t size = (size_t)mib << 20;
    char *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) fail("mmap");
    for (size_t i = 0; i < size; i += 4096) at[i] = 1;
    return at;
}

static void read_all(const volatile char *at, long mib) {
    for (size_t i = 0; i < (size_t)mib << 20; i += 4096) (void)at[i];
}

/* Grows by this many MiB as fast as it can, and ends. */
static int act_grow(long mib) {
    for (long i = 0; i < mib; i++) take(1);
    say("grown", mib);
    return 0;
}

/* Grows by this many MiB with every line on standard input. */
static int act_grow_by(long mib) {
    char line[16];
    say("grown", 0);
    for (long all = mib; fgets(line, sizeof line, stdin); all += mib) {
        take(mib);
        say("grown", all);
    }
    return 0;
}

/* Ten children that share this many MiB with their parent, by fork or by a memfd, and stay. */
static int act_share(long mib, int by_file) {
    char *at;
    int ready[2];
    if (pipe(ready)) fail("pipe");
    if (by_file) {
        int fd = memfd_create("shared", 0);
        if (fd < 0 || ftruncate(fd, mib << 20)) fail("memfd");
        at = mmap(NULL, mib << 20, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (at == MAP_FAILED) fail("mmap");
        for (size_t i = 0; i < (size_t)mib << 20; i += 4096) at[i] = 1;
    } else {
        at = take(mib);
    }
    for (int i = 0; i < 10; i++)
        if (!must_fork()) {
            read_all(at, mib);
            if (write(ready[1], "r", 1) != 1) fail("write");
            stay();
        }
    char one;
    for (int i = 0; i < 10; i++)
        if (read(ready[0], &one, 1) != 1) fail("read");
    say("shared", mib);
    stay();
    return 0;
}

/* Children of 20 MiB each, one after the other, until one is killed. */
static int act_spread(long n) {
    int ready[2];
    if (pipe(ready)) fail("pipe");
    for (long i = 0; i < n; i++) {
        if (!must_fork()) {
            take(20);
            if (write(ready[1], "r", 1) != 1) fail("write");
            stay();
        }
        struct pollfd there = { ready[0], POLLIN, 0 };
        int status;
        char one;
        for (;;) {
            pid_t dead = waitpid(-1, &status, WNOHANG);
            if (dead > 0) {
                say("killed", WIFSIGNALED(status) ? WTERMSIG(status) : -1);
                return 0;
            }
            if (poll(&there, 1, 10) == 1) break;
        }
        if (read(ready[0], &one, 1) != 1) fail("read");
    }
    say("killed", 0);
    return 0;
}

static void set_oom_score_adj(long adj) {
    FILE *file = fopen("/proc/self/oom_score_adj", "w");
    if (!file) fail("oom_score_adj");
    fprintf(file, "%ld", adj);
    if (fclose(file)) fail("oom_score_adj");
}

/* Three children: one of 30 MiB, one of 110, and one that grows until one of them is killed. A
 * positive adj is the first one's oom_score_adj, a negative one the second one's. */
static int act_choose(long adj) {
    int ready[2];
    if (pipe(ready)) fail("pipe");
    pid_t child[3];
    for (int i = 0; i < 3; i++) {
        child[i] = must_fork();
        if (!child[i]) {
            if (i == 0 && adj > 0) set_oom_score_adj(adj);
            if (i == 1 && adj < 0) set_oom_score_adj(adj);
            if (i < 2) take(i == 0 ? 30 : 110);
            if (write(ready[1], "r", 1) != 1) fail("write");
            if (i == 2)
                for (int mib = 0; mib < 100; mib++) take(1);
            stay();
        }
        char one;
        if (read(ready[0], &one, 1) != 1) fail("read");
    }
    int status;
    pid_t dead = wait(&status);
    for (int i = 0; i < 3; i++)
        if (child[i] == dead) say("killed", i);
    say("signal", WIFSIGNALED(status) ? WTERMSIG(status) : -1);
    return 0;
}

static void *burn_for_ever(void *arg) {
    for (volatile int i = 0;; i++) {}
    return arg;
}

static int act_burn_threads(long n) {
    pthread_t t;
    for (long i = 0; i < n; i++)
        if (pthread_create(&t, NULL, burn_for_ever, NULL)) fail("thread");
    stay();
    return 0;
}

/* A child that burns so many ms, and a parent that asks for its stops. */
static int act_watch_child(long ms) {
    pid_t child = must_fork();
    if (!child) burn(ms), _exit(0);
    int status, stops = 0;
    for (;;) {
        if (waitpid(child, &status, WUNTRACED | WCONTINUED) != child) fail("waitpid");
        if (WIFEXITED(status)) break;
        stops++;
    }
    say("stops", stops);
    return WEXITSTATUS(status);
}

/* Each CPU that it may use, in a line. */
static void *say_cpus(void *arg) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set)) fail("sched_getaffinity");
    printf("cpus");
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &set)) printf(" %d", cpu);
    printf("\n");
    fflush(stdout);
    return arg;
}

static int act_cpus_thread(void) {
    pthread_t t;
    if (pthread_create(&t, NULL, say_cpus, NULL) || pthread_join(t, NULL)) fail("thread");
    return 0;
}

int main(int argc, char **argv) {
    if (argc < 3) return 64;
    const char *what = argv[1];
    long n = argc > 3 ? atol(argv[3]) : 0;
    if (!strcmp(what, "exit")) return n;
    if (!strcmp(what, "burn")) return burn(n), 0;
    if (!strcmp(what, "sleep")) stay();
    if (!strcmp(what, "die")) return raise(n), stay(), 0;
    if (!strcmp(what, "daemon")) return act_daemon(n);
    if (!strcmp(what, "bomb")) return act_bomb();
    if (!strcmp(what, "churn")) return act_churn(n);
    if (!strcmp(what, "relay")) return act_relay(n);
    if (!strcmp(what, "fill")) return act_fill(n);
    if (!strcmp(what, "threads")) return act_threads(n);
    if (!strcmp(what, "vfork")) return act_vfork(n);
    if (!strcmp(what, "spawn")) return act_spawn(n);
    if (!strcmp(what, "clone3")) return act_clone3();
    if (!strcmp(what, "clone-untraced")) return act_clone_untraced();
    if (!strcmp(what, "clone-parent")) return act_clone_parent(n);
    if (!strcmp(what, "ignore-sigchld")) return act_ignore_sigchld(n);
    if (!strcmp(what, "subreaper")) return act_subreaper();
    if (!strcmp(what, "slow-fork")) return act_slow_fork(n);
    if (!strcmp(what, "hide")) return act_hide(n);
    if (!strcmp(what, "eintr")) return act_eintr(n);
    if (!strcmp(what, "pid-reuse")) return act_pid_reuse();
    if (!strcmp(what, "leave")) return act_leave(n);
    if (!strcmp(what, "signals")) return act_signals();
    if (!strcmp(what, "stubborn")) return act_stubborn();
    if (!strcmp(what, "inherited")) return act_inherited();
    if (!strcmp(what, "linger")) return act_linger();
    if (!strcmp(what, "hand-over")) return act_hand_over();
    if (!strcmp(what, "family")) return act_family(n);
    if (!strcmp(what, "traced")) return act_traced();
    if (!strcmp(what, "vfork-wait")) return act_vfork_wait();
    if (!strcmp(what, "exec-threads")) return act_exec_threads(argv);
    if (!strcmp(what, "undumpable")) return act_undumpable();
    if (!strcmp(what, "burn-threads")) return act_burn_threads(n);
    if (!strcmp(what, "watch-child")) return act_watch_child(n);
    if (!strcmp(what, "cpus")) return say_cpus(NULL), 0;
    if (!strcmp(what, "cpus-thread")) return act_cpus_thread();
    if (!strcmp(what, "grow")) return act_grow(n);
    if (!strcmp(what, "grow-undumpable")) return prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), act_grow(n);
    if (!strcmp(what, "grow-by")) return act_grow_by(n);
    if (!strcmp(what, "share")) return act_share(n, 0);
    if (!strcmp(what, "share-file")) return act_share(n, 1);
    if (!strcmp(what, "spread")) return act_spread(n);
    if (!strcmp(what, "choose")) return act_choose(n);
    if (!strcmp(what, "load")) return act_load(argv[0], argv[2], n);
    return 64;
}
