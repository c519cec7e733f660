/* Switching between fibers: saves what a callee must preserve, changes the stack, restores.
 *
 *   void simt_switch(void **save, void *to)
 *   void simt_jump(void **save, void *to)
 *
 * store the stack pointer of the caller in *save and continue where `to` was saved by either, or at the address that
 * Stack_pool::prepare put into a fresh stack. They differ in what processors predict well. simt_switch continues by a
 * return: for calls from inside of the emulator, whose functions then return themselves, mostly to the same places.
 * simt_jump continues by a jump: for calls from kernels, where threads go on at one of several barriers. */
#if defined(__x86_64__)
        .text
        .p2align 5
        .globl simt_switch
        .type simt_switch, @function
simt_switch:
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
        .size simt_switch, .-simt_switch

        .p2align 5
        .globl simt_jump
        .type simt_jump, @function
simt_jump:
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
        popq %rcx
        jmp *%rcx
        .size simt_jump, .-simt_jump
#elif defined(__aarch64__)
        .text
        .p2align 5
        .globl simt_switch
        .type simt_switch, %function
simt_switch:
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
        .size simt_switch, .-simt_switch

        .p2align 5
        .globl simt_jump
        .type simt_jump, %function
simt_jump:
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
        br x30
        .size simt_jump, .-simt_jump
#else
#error "simt: no context switch for this processor"
#endif
        .section .note.GNU-stack, "", %progbits
