// A kernel's header and entry, what exceptions come to, and jumps whose places matter.

    .section .head, "ax"
    .global entry
    b entry
    .word 0
    .quad 0x200000          // where it wants to be, from the beginning of memory
    .quad _end - 0x40200000 // how much it needs
    .quad 0, 0, 0, 0
    .ascii "ARM\x64"
    .word 0

entry:
    adrp x1, stack_top
    mov sp, x1
    adrp x1, vectors
    msr vbar_el1, x1
    adrp x1, _bss
    adrp x2, _end
1:  stp xzr, xzr, [x1], #16
    cmp x1, x2
    b.lo 1b
    isb
    bl main

    .text
    .global power_off
power_off:
    movz w0, #0x8400, lsl #16
    movk w0, #8
    hvc #0
    b .

// Every exception is counted. What was called for stands behind its instruction already; what cannot be done is passed over,
// and who went where nothing is comes back.
    .macro leave
    adrp x0, taken
    ldr x1, [x0, :lo12:taken]
    add x1, x1, #1
    str x1, [x0, :lo12:taken]
    ldp x0, x1, [sp], #16
    eret
    .endm

    .macro lost
    .balign 128
    b wrong
    .endm

    .balign 4096
vectors:
    .rept 4
    lost
    .endr
    .balign 128
    stp x0, x1, [sp, #-16]!
    mrs x0, esr_el1
    lsr x0, x0, #26
    cmp x0, #0x15 // a call
    b.eq 2f
    cmp x0, #0x21 // no instruction
    b.eq 1f
    cmp x0, #0x25 // no memory
    ccmp x0, #0, #4, ne // no such instruction
    b.ne wrong
    mrs x1, elr_el1
    add x1, x1, #4
    msr elr_el1, x1
    b 2f
1:  msr elr_el1, x30
2:  leave
    .balign 128
    stp x0, x1, [sp, #-16]!
    mrs x0, s3_0_c12_c12_0 // ICC_IAR1_EL1
    msr s3_0_c12_c12_1, x0 // ICC_EOIR1_EL1
    leave
    .rept 10
    lost
    .endr
    .balign 128

wrong:
    mrs x0, esr_el1
    mrs x1, elr_el1
    bl report_wrong
    b power_off

    .global same_page_direct, other_page_direct, same_page_indirect, other_page_indirect
    .balign 4096
same_page_direct:
    .rept 16
    b . + 8
    brk #0
    .endr
    subs x0, x0, #1
    b.ne same_page_direct
    ret

    .balign 4096
same_page_indirect:
    adr x1, same_page_targets
1:  .rept 16
    ldr x2, [x1], #8
    br x2
    brk #0
    .endr
    subs x0, x0, #1
    b.ne same_page_indirect
    ret
same_page_targets:
    .set number, 1
    .rept 16
    .quad 1b + 12 * number
    .set number, number + 1
    .endr

    .balign 4096
other_page_direct:
    .rept 15
    b . + 4096
    .space 4092
    .endr
    subs x0, x0, #1
    b.ne other_page_direct
    ret

    .balign 4096
other_page_indirect:
    adr x1, other_page_targets
    b 1f
other_page_targets:
    .set number, 1
    .rept 15
    .quad 1f + 4096 * number
    .set number, number + 1
    .endr
    .balign 4096
1:  .rept 15
    ldr x2, [x1], #8
    br x2
    .space 4088
    .endr
    subs x0, x0, #1
    b.ne other_page_indirect
    ret

    .bss
    .balign 4096
    .space 16384
stack_top:
