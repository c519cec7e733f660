/* Invalid addresses: a kernel that touches pages that are not there fails its launch as on hardware, with a report. */
#include "internal.h"
#include "runtime.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>

#include <mutex>

namespace simt
{

static struct sigaction previous_segv, previous_bus;

// Of the instruction that was interrupted.
static const void *code_of(void *context)
{
    const ucontext_t *user = (const ucontext_t *)context;
#if defined(__x86_64__)
    return (const void *)user->uc_mcontext.gregs[REG_RIP];
#else
    return (const void *)user->uc_mcontext.pc;
#endif
}

// The faulting fiber's own stack may be full, so this runs on another one; fail leaves it for good.
[[maybe_unused]] static void on_fault(int signal, siginfo_t *info, void *context)
{
    const Site site = {Here(nullptr, 0), code_of(context)};
    const void *address = info->si_addr;
    if (!current) {
        if (in_device_space(address)) {
            static const char text[] = "simt: host code touches device memory\n";
            fputs(text, stderr);
        }
        sigaction(signal, signal == SIGSEGV ? &previous_segv : &previous_bus, nullptr);
        return; // to the same instruction, and then to whoever was here before
    }
    if (current->block->stacks.is_guard(address))
        fail_site(site, cudaErrorHardwareStackError, "more than %zu bytes of local memory",
                  (size_t)stack_size);
    if (const char *error = device_access_error(address, 1, current->block->device))
        fail_site(site, cudaErrorIllegalAddress, "access out of bounds at %s", error);
    // Accesses that are not aligned, and addresses no pointer can have, come without an address.
    fail_site(site, cudaErrorIllegalAddress, "access to %p, which is not aligned or no address",
              address);
}

#ifndef SIMT_ASAN
static void catch_faults()
{
    static std::once_flag once;
    std::call_once(once, [] {
        struct sigaction action = {};
        action.sa_sigaction = on_fault;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
        sigaction(SIGSEGV, &action, &previous_segv);
        sigaction(SIGBUS, &action, &previous_bus);
    });
}
#endif

Fault_stack::Fault_stack()
{
#ifndef SIMT_ASAN
    stack_t stack = {};
    stack.ss_size = 64 * 1024;
    stack.ss_sp = memory = malloc(stack.ss_size);
    sigaltstack(&stack, &previous);
    catch_faults();
#endif
}

Fault_stack::~Fault_stack()
{
#ifndef SIMT_ASAN
    sigaltstack(&previous, nullptr);
    free(memory);
#endif
}

} // namespace simt
