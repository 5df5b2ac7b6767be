// What ends a launch from outside the kernel: faults of the processor, and the end of its time.
#include <dlfcn.h>
#include <link.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "runtime.h"

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

namespace emu {

volatile bool out_of_time;

namespace {

// The text of the kernel's shared object.
struct Text {
  const void* entry;
  uintptr_t start, end;
} text;

void find_text(const void* entry) {
  if (text.entry == entry) return;
  text = {entry, 0, 0};
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void*) {
        for (int i = 0; i < info->dlpi_phnum; i++) {
          uintptr_t start = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr, end = start + info->dlpi_phdr[i].p_memsz;
          auto at = reinterpret_cast<uintptr_t>(text.entry);
          if (info->dlpi_phdr[i].p_type != PT_LOAD || at < start || at >= end) continue;
          text.start = start;
          text.end = end;
          return 1;
        }
        return 0;
      },
      nullptr);
}

uintptr_t interrupted(void* context) {
#if defined(__x86_64__)
  return static_cast<uintptr_t>(static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP]);
#else
  return static_cast<ucontext_t*>(context)->uc_mcontext.pc;
#endif
}

void on_timer(int, siginfo_t*, void* context) {
  if (!running) return;
  out_of_time = true;
  // In the middle of the runtime nothing can be abandoned: it looks at the flag itself.
  uintptr_t at = interrupted(context);
  if (at >= text.start && at < text.end) check_time(0);
}

void on_fault(int number, siginfo_t* info, void* context) {
  if (!running) {  // not ours: let it happen again under the default action
    signal(number, SIG_DFL);
    return;
  }
  bool is_write = false;
#if defined(__x86_64__)
  is_write = static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_ERR] & 2;
#else
  (void)context;
#endif
  const void* address = info->si_addr;
  if (number == SIGFPE) fail(kArithmetic, "integer division by zero");
  if (in_stack_guard(address)) fail(kStackOverflow, "a thread's stack is full: recursion, or a huge local array");
  int slot = slot_of(address);
  if (slot >= 0) {
    auto* at = static_cast<const uint8_t*>(address);
    bool inside = at >= slots[slot].data && at < slots[slot].data + slots[slot].size;
    fail_at(inside ? kReadOnly : kOutOfBounds, address, 0, is_write);
  }
  fail_at(kWildAccess, address, 0, is_write);
}

alignas(64) char signal_stack[65536];

}  // namespace

Faults::Faults() {
  stack_t ours{};
  ours.ss_sp = signal_stack;
  ours.ss_size = sizeof signal_stack;
  sigaltstack(&ours, &stack_before);
  struct sigaction action {};
  // The handlers need not return: they can resume the launch on another stack.
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  for (int i = 0; i < 4; i++) {
    action.sa_sigaction = numbers[i] == SIGVTALRM ? on_timer : on_fault;
    sigaction(numbers[i], &action, &before[i]);
  }
  out_of_time = false;
  find_text(reinterpret_cast<const void*>(spec->entry));
  // The processor time of this thread: other processes do not count.
  sigevent event{};
  event.sigev_notify = SIGEV_THREAD_ID;
  event.sigev_signo = SIGVTALRM;
  event.sigev_notify_thread_id = static_cast<pid_t>(syscall(SYS_gettid));
  has_timer = spec->seconds > 0 && !timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &timer);
  if (!has_timer) return;
  auto whole = static_cast<time_t>(spec->seconds);
  itimerspec when{{0, 20'000'000}, {whole, static_cast<long>((spec->seconds - static_cast<double>(whole)) * 1e9)}};
  timer_settime(timer, 0, &when, nullptr);
}

Faults::~Faults() {
  if (has_timer) timer_delete(timer);
  for (int i = 0; i < 4; i++) sigaction(numbers[i], &before[i], nullptr);
  sigaltstack(&stack_before, nullptr);
}

}  // namespace emu
