// What speed is compared with: a loop over Hyperscan that counts what it is told.
//   loop EXPRESSIONS TEXT     lines of flags, a tab and an expression; prints seconds and hits of each pass, one pass a line of input
#include <hs/hs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int on(unsigned id, unsigned long long from, unsigned long long to, unsigned flags, void *ctx) {
	(void)id, (void)from, (void)to, (void)flags;
	++*(unsigned long *)ctx;
	return 0;
}

static char *whole(const char *name, size_t *n) {
	FILE *f = fopen(name, "rb");
	if (!f) exit(2);
	fseek(f, 0, SEEK_END);
	*n = ftell(f);
	rewind(f);
	char *b = malloc(*n + 1);
	if (fread(b, 1, *n, f) != *n) exit(2);
	b[*n] = 0;
	fclose(f);
	return b;
}

int main(int argc, char **argv) {
	size_t n, size;
	if (argc != 3) return 2;
	char *list = whole(argv[1], &n), *text = whole(argv[2], &size), line[64];
	const char *expr[2000];
	unsigned flags[2000], ids[2000], count = 0;
	for (char *s = strtok(list, "\n"); s && count < 2000; s = strtok(NULL, "\n")) {
		flags[count] = strtoul(s, &s, 10);
		ids[count] = count;
		expr[count++] = s + 1;
	}
	hs_database_t *db;
	hs_compile_error_t *err;
	if (hs_compile_multi(expr, flags, ids, count, HS_MODE_BLOCK, NULL, &db, &err)) {
		fprintf(stderr, "%d: %s\n", err->expression, err->message);
		return 1;
	}
	hs_scratch_t *scratch = NULL;
	if (hs_alloc_scratch(db, &scratch)) return 1;
	while (fgets(line, sizeof line, stdin)) {
		struct timespec a, b;
		unsigned long hits = 0;
		clock_gettime(CLOCK_MONOTONIC, &a);
		for (size_t at = 0; at < size; at += 1 << 20)
			hs_scan(db, text + at, size - at < 1 << 20 ? size - at : 1 << 20, 0, scratch, on, &hits);
		clock_gettime(CLOCK_MONOTONIC, &b);
		printf("%.6f %lu\n", (b.tv_sec - a.tv_sec) + (b.tv_nsec - a.tv_nsec) / 1e9, hits);
		fflush(stdout);
	}
	return 0;
}
