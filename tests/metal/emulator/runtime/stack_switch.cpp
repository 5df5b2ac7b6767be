// The switch between fibers' stacks.
#include <cstring>

#include "runtime.h"

extern "C" void emu_start();

#if defined(__x86_64__)
asm(R"(
.text
.globl emu_switch
.type emu_switch,@function
emu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emu_switch,.-emu_switch
.globl emu_start
.type emu_start,@function
emu_start:
  call emu_thread_main
  ud2
.size emu_start,.-emu_start
.section .note.GNU-stack,"",@progbits
.text
)");
void* emu::first_frame(void* top) {
  auto** frame = static_cast<void**>(top);
  frame -= 2;  // keeps the stack on a 16-byte boundary at the call
  *--frame = reinterpret_cast<void*>(emu_start);
  for (int i = 0; i < 6; i++) *--frame = nullptr;
  return frame;
}
#elif defined(__aarch64__)
asm(R"(
.text
.globl emu_switch
.type emu_switch,%function
emu_switch:
  sub sp, sp, #160
  stp x19, x20, [sp]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.globl emu_start
.type emu_start,%function
emu_start:
  bl emu_thread_main
  brk #1
)");
void* emu::first_frame(void* top) {
  auto** frame = static_cast<void**>(top) - 20;
  memset(frame, 0, 160);
  frame[11] = reinterpret_cast<void*>(emu_start);  // x30, where the first switch returns to
  return frame;
}
#else
#error "the emulator's stack switch is written for x86-64 and aarch64"
#endif
