# What C cannot say: accesses of two harts to one place, as the architecture has them. Each begins with how often.
    .option norvc
    .macro function name
    .text
    .globl \name
    .type \name, @function
\name:
    .endm

# void add_exclusive(unsigned *, long): a load that reserves, a store that may fail.
    function add_exclusive
1:  lr.w    t0, (a0)
    addi    t0, t0, 1
    sc.w    t1, t0, (a0)
    bnez    t1, 1b
    addi    a1, a1, -1
    bnez    a1, 1b
    ret

# void add_ordered(unsigned *, long)
    function add_ordered
1:  lr.w.aq t0, (a0)
    addi    t0, t0, 1
    sc.w.rl t1, t0, (a0)
    bnez    t1, 1b
    addi    a1, a1, -1
    bnez    a1, 1b
    ret

# void add_byte(unsigned char *, long): its neighbours are others', in a word that is reserved as a whole.
    function add_byte
    andi    t2, a0, 3
    slli    t2, t2, 3
    andi    a0, a0, -4
    li      t3, 0xff
    sll     t3, t3, t2
    li      t4, 1
    sll     t4, t4, t2
1:  lr.w    t0, (a0)
    add     t1, t0, t4
    xor     t1, t1, t0
    and     t1, t1, t3
    xor     t1, t1, t0
    sc.w    t5, t1, (a0)
    bnez    t5, 1b
    addi    a1, a1, -1
    bnez    a1, 1b
    ret

# void add_pair(unsigned long [2], long): no instruction does both halves; each is added to.
    function add_pair
    li      t0, 1
1:  amoadd.d zero, t0, (a0)
    addi    t1, a0, 8
2:  lr.d    t2, (t1)
    addi    t2, t2, 1
    sc.d    t3, t2, (t1)
    bnez    t3, 2b
    addi    a1, a1, -1
    bnez    a1, 1b
    ret

# void add_atomic(unsigned *, long): one instruction.
    function add_atomic
    li      t0, 1
1:  amoadd.w.aqrl zero, t0, (a0)
    addi    a1, a1, -1
    bnez    a1, 1b
    ret

# void add_compared(unsigned *, long): what was read before is compared with what is reserved.
    function add_compared
1:  lw      t0, (a0)
    addi    t1, t0, 1
2:  lr.w    t2, (a0)
    bne     t2, t0, 1b
    sc.w    t3, t1, (a0)
    bnez    t3, 2b
    addi    a1, a1, -1
    bnez    a1, 1b
    ret

# void add_locked(unsigned [2], long): a lock, and a word that nobody adds to without it.
    function add_locked
    li      t0, 1
1:  amoswap.w.aq t1, t0, (a0)
    bnez    t1, 1b
    lw      t2, 4(a0)
    addi    t2, t2, 1
    sw      t2, 4(a0)
    amoswap.w.rl zero, zero, (a0)
    addi    a1, a1, -1
    bnez    a1, 1b
    ret

# void store_and_load(unsigned *mine, unsigned *others, unsigned *seen, long): each place once, its own before the other's.
    function store_and_load
    li      t0, 1
1:  sw      t0, (a0)
    fence   w, r
    lw      t1, (a1)
    sw      t1, (a2)
    addi    a0, a0, 4
    addi    a1, a1, 4
    addi    a2, a2, 4
    addi    a3, a3, -1
    bnez    a3, 1b
    ret

# The same, by instructions that are ordered themselves.
    function store_and_load_ordered
    li      t0, 1
1:  amoswap.w.aqrl zero, t0, (a0)
    lr.w.aqrl t1, (a1)
    sw      t1, (a2)
    addi    a0, a0, 4
    addi    a1, a1, 4
    addi    a2, a2, 4
    addi    a3, a3, -1
    bnez    a3, 1b
    ret

# void send(unsigned *data, unsigned *flags, long)
    function send
    li      t0, 1
1:  sw      t0, (a0)
    fence   w, w
    sw      t0, (a1)
    addi    a0, a0, 4
    addi    a1, a1, 4
    addi    a2, a2, -1
    bnez    a2, 1b
    ret

# long receive(unsigned *data, unsigned *flags, long): how often a flag was seen and its datum was not.
    function receive
    li      t0, 0
1:  lw      t1, (a1)
    fence   r, r
    lw      t2, (a0)
    sltu    t3, t2, t1
    add     t0, t0, t3
    addi    a0, a0, 4
    addi    a1, a1, 4
    addi    a2, a2, -1
    bnez    a2, 1b
    mv      a0, t0
    ret

# void publish(void *): what was written into a line is to be executed, by all threads: riscv_flush_icache of the kernel's.
    function publish
    addi    a1, a0, 64
    li      a2, 0
    li      a7, 259
    ecall
    ret

# void synchronise(void): the kernel has done so.
    function synchronise
    ret

# void fence(void)
    function fence
    fence   rw, rw
    ret
