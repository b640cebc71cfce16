// What floating point takes. All of it is exact to the last bit, so that is what is given.

#include <string.h>

#include "kernels.h"

static u64 bits(double value) {
    u64 bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static u64 matmul(void) {
    enum { N = 200 };
    static double a[N][N], b[N][N], c[N][N];
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            a[i][j] = i + j;
            b[i][j] = i - j;
        }
    for (int round = 0; round < 5; round++)
        for (int i = 0; i < N; i++)
            for (int j = 0; j < N; j++) {
                double s = 0;
                for (int k = 0; k < N; k++) s += a[i][k] * b[k][j];
                c[i][j] = s;
            }
    return bits(c[N / 2][N / 3]);
}

static u64 mandel(void) {
    u64 count = 0;
    for (int y = 0; y < 600; y++)
        for (int x = 0; x < 300; x++) {
            double cr = x / 150.0 - 1.5, ci = y / 300.0 - 1, zr = 0, zi = 0;
            int n = 0;
            while (n < 200 && zr * zr + zi * zi < 4) {
                double t = zr * zr - zi * zi + cr;
                zi = 2 * zr * zi + ci;
                zr = t;
                n++;
            }
            count += n;
        }
    return count;
}

static u64 nbody(void) {
    static double p[5][3], v[5][3];
    double m[5] = {40, 0.04, 0.01, 0.002, 0.002};
    for (int i = 0; i < 5; i++)
        for (int d = 0; d < 3; d++) {
            p[i][d] = i * 3 + d + 1;
            v[i][d] = (d - 1) * 0.1 * i;
        }
    for (int step = 0; step < 300000; step++) {
        for (int i = 0; i < 5; i++)
            for (int j = i + 1; j < 5; j++) {
                double x = p[i][0] - p[j][0], y = p[i][1] - p[j][1], z = p[i][2] - p[j][2];
                double d2 = x * x + y * y + z * z, mag = 0.001 / (d2 * __builtin_sqrt(d2));
                v[i][0] -= x * m[j] * mag;
                v[i][1] -= y * m[j] * mag;
                v[i][2] -= z * m[j] * mag;
                v[j][0] += x * m[i] * mag;
                v[j][1] += y * m[i] * mag;
                v[j][2] += z * m[i] * mag;
            }
        for (int i = 0; i < 5; i++)
            for (int d = 0; d < 3; d++) p[i][d] += 0.001 * v[i][d];
    }
    return bits(p[0][0]);
}

static u64 fsum(void) {
    static float list[1 << 16];
    for (int i = 0; i < 1 << 16; i++) list[i] = i * 0.5f;
    float s = 0;
    for (int round = 0; round < 1800; round++)
        for (int i = 0; i < 1 << 16; i++) s = s * 0.999f + list[i];
    return bits(s);
}

static u64 spectral(void) {
    enum { N = 300 };
    static double u[N], v[N];
    for (int i = 0; i < N; i++) u[i] = 1;
    for (int round = 0; round < 400; round++) {
        for (int i = 0; i < N; i++) {
            v[i] = 0;
            for (int j = 0; j < N; j++) v[i] += u[j] / ((i + j) * (i + j + 1) / 2 + i + 1);
        }
        for (int i = 0; i < N; i++) u[i] = v[i] / v[0];
    }
    return bits(u[1]);
}

// A transform of 4096 complex numbers, forth and back.
static void transform(double *re, double *im, int n, double direction) {
    for (int i = 1, j = 0; i < n; i++) {
        int bit = n >> 1;
        for (; j & bit; bit >>= 1) j ^= bit;
        j ^= bit;
        if (i < j) {
            double r = re[i], m = im[i];
            re[i] = re[j];
            im[i] = im[j];
            re[j] = r;
            im[j] = m;
        }
    }
    // Of an angle that is halved at each stage.
    double cosine = -1, sine = 0;
    for (int length = 2; length <= n; length *= 2) {
        for (int i = 0; i < n; i += length) {
            double wr = 1, wi = 0;
            for (int k = 0; k < length / 2; k++) {
                int a = i + k, b = a + length / 2;
                double r = re[b] * wr - im[b] * wi, m = re[b] * wi + im[b] * wr;
                re[b] = re[a] - r;
                im[b] = im[a] - m;
                re[a] += r;
                im[a] += m;
                double t = wr * cosine - wi * sine;
                wi = wr * sine + wi * cosine;
                wr = t;
            }
        }
        double half = __builtin_sqrt((1 + cosine) / 2);
        sine = direction * __builtin_sqrt((1 - cosine) / 2);
        cosine = half;
    }
}

static u64 fft(void) {
    enum { N = 4096 };
    static double re[N], im[N];
    for (int i = 0; i < N; i++) re[i] = (i * 37) % 101;
    for (int round = 0; round < 200; round++) {
        transform(re, im, N, 1);
        transform(re, im, N, -1);
        for (int i = 0; i < N; i++) {
            re[i] /= N;
            im[i] /= N;
        }
    }
    return bits(re[5]);
}

// A system of linear equations, by elimination with pivots and substitution.
static u64 linpack(void) {
    enum { N = 200 };
    static double a[N][N], b[N];
    double sum = 0;
    for (int round = 0; round < 24; round++) {
        u64 seed = SEED + round;
        for (int i = 0; i < N; i++) {
            b[i] = 0;
            for (int j = 0; j < N; j++) {
                a[i][j] = (double)(next(&seed) >> 40) / (1 << 24) - 0.5;
                b[i] += a[i][j];
            }
        }
        for (int k = 0; k < N; k++) {
            int pivot = k;
            for (int i = k + 1; i < N; i++)
                if (__builtin_fabs(a[i][k]) > __builtin_fabs(a[pivot][k])) pivot = i;
            for (int j = k; j < N; j++) {
                double t = a[k][j];
                a[k][j] = a[pivot][j];
                a[pivot][j] = t;
            }
            double t = b[k];
            b[k] = b[pivot];
            b[pivot] = t;
            for (int i = k + 1; i < N; i++) {
                double factor = a[i][k] / a[k][k];
                for (int j = k + 1; j < N; j++) a[i][j] -= factor * a[k][j];
                b[i] -= factor * b[k];
            }
        }
        for (int i = N - 1; i >= 0; i--) {
            for (int j = i + 1; j < N; j++) b[i] -= a[i][j] * b[j];
            b[i] /= a[i][i];
            sum += b[i];
        }
    }
    return bits(sum);
}

const struct kernel floating[] = {
    {"matmul", matmul}, {"nbody", nbody},     {"mandel", mandel},   {"fft", fft},
    {"fsum", fsum},     {"spectral", spectral}, {"linpack", linpack}, {0},
};
