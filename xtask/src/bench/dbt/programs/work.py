"""Objects, dictionaries, text, long integers and calls: what it prints has to be the same everywhere."""


class Node:
    def __init__(self, key):
        self.key, self.left, self.right = key, None, None


def insert(root, key):
    while True:
        side = "left" if key < root.key else "right"
        below = getattr(root, side)
        if below is None:
            setattr(root, side, Node(key))
            return
        root = below


def walk(node):
    if node is not None:
        yield from walk(node.left)
        yield node.key
        yield from walk(node.right)


def numbers(count, state=12345):
    for _ in range(count):
        state = state * 1103515245 + 12345 & 0x7FFFFFFF
        yield state


def tree():
    root = Node(1 << 30)
    for key in numbers(6000):
        insert(root, key)
    return sum(i * key for i, key in enumerate(walk(root)))


def words():
    counts = {}
    text = " ".join("w%d" % (n % 997) for n in numbers(20000))
    for word in text.split():
        counts[word] = counts.get(word, 0) + 1
    return sorted(counts.items(), key=lambda it: (-it[1], it[0]))[:5]


def queens(n, row=0, columns=0, left=0, right=0):
    if row == n:
        return 1
    free, found = ~(columns | left | right) & (1 << n) - 1, 0
    while free:
        bit = free & -free
        free ^= bit
        found += queens(n, row + 1, columns | bit, (left | bit) << 1, (right | bit) >> 1)
    return found


def digits():
    value = 3**4000
    return sum(map(int, str(value))), len("%x" % (value * value))


print(tree(), words(), queens(7), digits())
