// What C cannot say: accesses of two processors to one place, as the architecture has them. Each begins with how often.
    .arch armv8.1-a
    .macro function name
    .text
    .global \name
    .type \name, %function
\name:
    .endm

// void add_exclusive(unsigned *, long): a load that reserves, a store that may fail.
    function add_exclusive
1:  ldxr    w2, [x0]
    add     w2, w2, #1
    stxr    w3, w2, [x0]
    cbnz    w3, 1b
    subs    x1, x1, #1
    b.ne    1b
    ret

// void add_ordered(unsigned *, long)
    function add_ordered
1:  ldaxr   w2, [x0]
    add     w2, w2, #1
    stlxr   w3, w2, [x0]
    cbnz    w3, 1b
    subs    x1, x1, #1
    b.ne    1b
    ret

// void add_byte(unsigned char *, long): its neighbours are others'.
    function add_byte
1:  ldxrb   w2, [x0]
    add     w2, w2, #1
    stxrb   w3, w2, [x0]
    cbnz    w3, 1b
    subs    x1, x1, #1
    b.ne    1b
    ret

// void add_pair(unsigned long [2], long): both halves as one.
    function add_pair
1:  ldaxp   x2, x3, [x0]
    add     x2, x2, #1
    add     x3, x3, #1
    stlxp   w4, x2, x3, [x0]
    cbnz    w4, 1b
    subs    x1, x1, #1
    b.ne    1b
    ret

// void add_atomic(unsigned *, long): one instruction.
    function add_atomic
    mov     w2, #1
1:  ldaddal w2, w3, [x0]
    subs    x1, x1, #1
    b.ne    1b
    ret

// void add_compared(unsigned *, long)
    function add_compared
1:  ldr     w2, [x0]
2:  add     w3, w2, #1
    mov     w4, w2
    casal   w4, w3, [x0]
    cmp     w4, w2
    mov     w2, w4
    b.ne    2b
    subs    x1, x1, #1
    b.ne    1b
    ret

// void add_locked(unsigned [2], long): a lock, and a word that nobody adds to without it.
    function add_locked
    mov     w2, #1
1:  swpa    w2, w3, [x0]
    cbnz    w3, 1b
    ldr     w4, [x0, #4]
    add     w4, w4, #1
    str     w4, [x0, #4]
    stlr    wzr, [x0]
    subs    x1, x1, #1
    b.ne    1b
    ret

// void store_and_load(unsigned *mine, unsigned *others, unsigned *seen, long): each place once, its own before the other's.
    .macro both name, store, fence, load
    function \name
    mov     w4, #1
1:  \store  w4, [x0]
    \fence
    \load   w5, [x1]
    str     w5, [x2], #4
    add     x0, x0, #4
    add     x1, x1, #4
    subs    x3, x3, #1
    b.ne    1b
    ret
    .endm
    both    store_and_load, str, "dmb ish", ldr
    both    store_and_load_ordered, stlr, "nop", ldar

// void send(unsigned *data, unsigned *flags, long)
    function send
    mov     w3, #1
1:  str     w3, [x0], #4
    dmb     ishst
    str     w3, [x1], #4
    subs    x2, x2, #1
    b.ne    1b
    ret

// long receive(unsigned *data, unsigned *flags, long): how often a flag was seen and its datum was not.
    function receive
    mov     x5, #0
1:  ldr     w3, [x1], #4
    dmb     ishld
    ldr     w4, [x0], #4
    cmp     w3, w4
    cinc    x5, x5, hi
    subs    x2, x2, #1
    b.ne    1b
    mov     x0, x5
    ret

// void publish(void *): what was written into a line is to be executed, by whoever synchronises after this.
    function publish
    dc      cvau, x0
    dsb     ish
    ic      ivau, x0
    dsb     ish
    isb
    ret

// void synchronise(void)
    function synchronise
    isb
    ret

// void fence(void)
    function fence
    dmb     ish
    ret
