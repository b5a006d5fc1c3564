/* Prints the functions that a program enters, by their names in its symbol table: `hot-functions PROGRAM ARGUMENT...`.
 *
 * Every function gets a breakpoint at its first byte when the program is executed, which is taken away again when it is
 * met (ptrace(2)). Children are followed until they execute something. For x86-64. */
#define _GNU_SOURCE
#include <elf.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

struct function {
    unsigned long address;
    const char *name;
    int met;
};

static struct function *functions;
static size_t count;
static unsigned char *file;
static unsigned long text, text_end, text_offset;

static int by_address(const void *a, const void *b) {
    const struct function *x = a, *y = b;
    return x->address < y->address ? -1 : x->address > y->address;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void read_symbols(const char *path) {
    int fd = open(path, O_RDONLY);
    struct stat stat;
    if (fd < 0 || fstat(fd, &stat)) die(path);
    file = mmap(NULL, stat.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (file == MAP_FAILED) die(path);
    Elf64_Ehdr *header = (void *)file;
    Elf64_Shdr *sections = (void *)(file + header->e_shoff);
    const char *names = (char *)file + sections[header->e_shstrndx].sh_offset;
    for (int i = 0; i < header->e_shnum; i++) {
        if (strncmp(names + sections[i].sh_name, ".text", 5)) continue;
        if (!text) text = sections[i].sh_addr, text_offset = sections[i].sh_offset;
        text_end = sections[i].sh_addr + sections[i].sh_size;
    }
    for (int i = 0; i < header->e_shnum; i++) {
        if (sections[i].sh_type != SHT_SYMTAB) continue;
        Elf64_Sym *symbols = (void *)(file + sections[i].sh_offset);
        size_t length = sections[i].sh_size / sizeof *symbols;
        functions = calloc(length, sizeof *functions);
        for (size_t n = 0; n < length; n++) {
            unsigned long at = symbols[n].st_value;
            if (ELF64_ST_TYPE(symbols[n].st_info) != STT_FUNC || at < text || at >= text_end) continue;
            const char *name = (char *)file + sections[sections[i].sh_link].sh_offset + symbols[n].st_name;
            functions[count++] = (struct function){at, name, 0};
        }
    }
    qsort(functions, count, sizeof *functions, by_address);
}

static int memory_of(pid_t pid) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/mem", pid);
    int fd = open(path, O_RDWR);
    if (fd < 0) die(path);
    return fd;
}

static unsigned long load_address(pid_t pid) {
    char path[64];
    unsigned long pair[2], base = 0;
    snprintf(path, sizeof path, "/proc/%d/auxv", pid);
    int fd = open(path, O_RDONLY);
    while (read(fd, pair, sizeof pair) == sizeof pair)
        if (pair[0] == 9 /* AT_ENTRY */) base = pair[1] - ((Elf64_Ehdr *)file)->e_entry;
    close(fd);
    return base;
}

static void set_breakpoints(pid_t pid, unsigned long base) {
    size_t length = text_end - text;
    unsigned char *code = malloc(length);
    memcpy(code, file + text_offset, length);
    for (size_t i = 0; i < count; i++)
        if (!functions[i].met) code[functions[i].address - text] = 0xcc;
    int fd = memory_of(pid);
    for (size_t done = 0; done < length;) {
        ssize_t n = pwrite(fd, code + done, length - done, base + text + done);
        if (n <= 0) die("set breakpoints");
        done += n;
    }
    close(fd);
    free(code);
}

/* Takes the breakpoint away that the process has met; whether it was one. */
static int meet(pid_t pid, unsigned long base) {
    struct user_regs_struct registers;
    ptrace(PTRACE_GETREGS, pid, 0, &registers);
    struct function wanted = {.address = registers.rip - 1 - base};
    struct function *found = bsearch(&wanted, functions, count, sizeof *functions, by_address);
    if (!found) return 0;
    /* All its names: the one that its section has is among them. */
    while (found > functions && found[-1].address == found->address) found--;
    for (struct function *f = found; f < functions + count && f->address == found->address; f++) f->met = 1;
    registers.rip--;
    ptrace(PTRACE_SETREGS, pid, 0, &registers);
    int fd = memory_of(pid);
    pwrite(fd, file + text_offset + (found->address - text), 1, registers.rip);
    close(fd);
    return 1;
}

int main(int argc, char **argv) {
    if (argc < 2) return 2;
    read_symbols(argv[1]);
    pid_t first = fork();
    if (!first) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        execv(argv[1], argv + 1);
        _exit(127);
    }
    int status;
    waitpid(first, &status, 0);
    ptrace(PTRACE_SETOPTIONS, first, 0,
           PTRACE_O_TRACEEXEC | PTRACE_O_TRACEFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACEVFORK | PTRACE_O_EXITKILL);
    ptrace(PTRACE_CONT, first, 0, 0);
    unsigned long base = 0;
    for (;;) {
        pid_t pid = waitpid(-1, &status, __WALL);
        if (pid < 0 || (pid == first && !WIFSTOPPED(status))) break;
        if (!WIFSTOPPED(status)) continue;
        int signal = WSTOPSIG(status), event = status >> 16;
        if (event == PTRACE_EVENT_EXEC && pid != first) {
            ptrace(PTRACE_DETACH, pid, 0, 0);
            continue;
        }
        if (event == PTRACE_EVENT_EXEC) set_breakpoints(pid, base = load_address(pid));
        if (event || signal == SIGSTOP || (signal == SIGTRAP && meet(pid, base))) signal = 0;
        ptrace(PTRACE_CONT, pid, 0, signal);
    }
    for (size_t i = 0; i < count; i++)
        if (functions[i].met) puts(functions[i].name);
    return 0;
}
