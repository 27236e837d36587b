/* A plugin for QEMU's user mode: how often each block of instructions runs.
 *
 *     qemu-aarch64 -plugin libcount_blocks.so,out=FILE PROGRAM
 *
 * A line for each block: its address, how often it ran, its bytes in hexadecimal digits. The guest
 * has one thread. QEMU's packages bring no header, so what is used of it stands here (interface
 * version 1, of QEMU 6 to 8). */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef uint64_t plugin_id;
enum { kAdd = 0 };
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t i);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *insn);
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *tb, int op, void *counter,
                                              uint64_t by);
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id id,
                                           void (*translated)(plugin_id, struct qemu_plugin_tb *));
void qemu_plugin_register_atexit_cb(plugin_id id, void (*at_exit)(plugin_id, void *), void *user);

int qemu_plugin_version = 1;

struct Block {
  struct Block *next;
  uint64_t address, count;
  size_t n;
  uint32_t code[];
};

static struct Block *blocks;
static const char *out;

static void translated(plugin_id id, struct qemu_plugin_tb *tb) {
  (void)id;
  const size_t n = qemu_plugin_tb_n_insns(tb);
  struct Block *block = calloc(1, sizeof *block + n * sizeof(uint32_t));
  if (block == NULL) abort();
  block->address = qemu_plugin_tb_vaddr(tb);
  block->n = n;
  for (size_t i = 0; i < n; i++) {
    memcpy(&block->code[i], qemu_plugin_insn_data(qemu_plugin_tb_get_insn(tb, i)), 4);
  }
  block->next = blocks;
  blocks = block;
  qemu_plugin_register_vcpu_tb_exec_inline(tb, kAdd, &block->count, 1);
}

static void at_exit(plugin_id id, void *user) {
  (void)id;
  (void)user;
  FILE *file = fopen(out, "w");
  if (file == NULL) abort();
  for (const struct Block *b = blocks; b != NULL; b = b->next) {
    if (b->count == 0) continue;
    fprintf(file, "%" PRIx64 " %" PRIu64 " ", b->address, b->count);
    for (size_t i = 0; i < b->n; i++) {
      for (int byte = 0; byte < 32; byte += 8) fprintf(file, "%02x", b->code[i] >> byte & 255);
    }
    fputc('\n', file);
  }
  fclose(file);
}

int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv) {
  (void)info;
  if (argc != 1 || strncmp(argv[0], "out=", 4) != 0) return -1;
  out = strdup(argv[0] + 4);
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_atexit_cb(id, at_exit, NULL);
  return 0;
}
