/* The parser of access logs: splits a block into lines, parses the regular ones, and does what else is needed per row.
 *
 * native.py calls it through ctypes. Lines in any other layout are left to fallback.py, which also parses all lines where
 * there is no C compiler (with portable.py for the other functions): both must agree on every line. Any bytes may come:
 * nothing is read outside [b, b + size + 64) and nothing written beyond the given capacity. The 64 bytes after the last
 * line are the padding that every buffer has (PADDING in buffers.py).
 */
#include <stdint.h>
#include <string.h>

typedef int64_t i64;
typedef uint64_t u64;
typedef uint8_t u8;

#define COLUMNS 14

/* SHA-256 of this file when it was compiled (build_scanner.py): native.py calls no library of another one. */
#ifndef SCAN_FINGERPRINT
#define SCAN_FINGERPRINT ""
#endif
const char fingerprint[65] = SCAN_FINGERPRINT;

static inline int digit(u8 c) { return (u8)(c - '0') < 10; }
static inline int two(const u8 *p) { return (p[0] - '0') * 10 + (p[1] - '0'); }

static const char MONTHS[] = "JanFebMarAprMayJunJulAugSepOctNovDec";

/* Days since 1970-01-01 of 'dd/Mmm/yyyy'. Returns 0 for a day that is not in the calendar, or outside 1970 to 2148. */
static int day_number(const u8 *p, i64 *days) {
    static const int lengths[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    for (int i = 0; i < 11; i++)
        if (i != 2 && i != 6 && (i < 3 || i > 5) && !digit(p[i])) return 0;
    if (p[2] != '/' || p[6] != '/') return 0;
    int month = 0;
    while (month < 12 && memcmp(MONTHS + 3 * month, p + 3, 3)) month++;
    if (month == 12) return 0;
    int day = two(p), year = two(p + 7) * 100 + two(p + 9);
    int leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    if (year < 1970 || year > 2148 || day < 1 || day > lengths[month] + (month == 1 && leap)) return 0;
    /* Years from March on, so that the leap day is the last one. */
    i64 y = month < 2 ? year - 1 : year, m = (month + 10) % 12;
    *days = 365 * y + y / 4 - y / 100 + y / 400 + (m * 306 + 5) / 10 + day - 1 - 719468;
    return 1;
}

/* Seconds since 1970-01-01 UTC of 'dd/Mmm/yyyy:hh:mm:ss +zzzz'. Returns 0 if it is no time. `cached` is the last day. */
static int utc_seconds(const u8 *p, u8 *cached, i64 *cached_days, i64 *seconds) {
    if (memcmp(p, cached, 11)) {
        if (!day_number(p, cached_days)) return 0;
        memcpy(cached, p, 11);
    }
    if (p[11] != ':' || p[14] != ':' || p[17] != ':' || p[20] != ' ') return 0;
    for (int i = 12; i < 26; i++)
        if (i != 14 && i != 17 && i != 20 && i != 21 && !digit(p[i])) return 0;
    int hour = two(p + 12), minute = two(p + 15), second = two(p + 18);
    int zone_hours = two(p + 22), zone_minutes = two(p + 24);
    if (hour > 23 || minute > 59 || second > 60 || zone_hours > 15 || zone_minutes > 59) return 0;
    if (p[21] != '+' && p[21] != '-') return 0;
    i64 zone = zone_hours * 3600 + zone_minutes * 60;
    *seconds = *cached_days * 86400 + hour * 3600 + minute * 60 + second - (p[21] == '-' ? -zone : zone);
    return 1;
}

/* Parse a line [s, e) into row `at` of the columns. Returns 0 if its layout is not the regular one. */
static int regular(const u8 *b, i64 s, i64 e, i64 line, i64 at, i64 capacity, u8 *cached, i64 *cached_days, i64 *out) {
    i64 quotes[7] = {0};
    int count = 0;
    for (const u8 *p = b + s; count < 7 && (p = memchr(p, '"', (size_t)(b + e - p))); p++) quotes[count++] = p - b;
    if (count != 6 && count != 2) return 0;
    i64 first = quotes[0], second = quotes[1];
    if (first - s < 38 || e - second < 7 || b[second - 1] == '\\') return 0;
    /* A byte order mark is no part of the address. */
    if (b[s] >= 0x80) return 0;
    i64 size_end = e;
    if (count == 6) {
        size_end = quotes[2] - 1;
        if (quotes[5] != e - 1 || quotes[4] - quotes[3] != 2) return 0;
        if (b[size_end] != ' ' || b[quotes[3] + 1] != ' ') return 0;
        if (b[quotes[3] - 1] == '\\' || b[quotes[5] - 1] == '\\') return 0;
    }
    const u8 *head = b + first - 30;
    if (head[0] != ' ' || head[1] != '[' || head[28] != ']' || head[29] != ' ') return 0;
    i64 seconds;
    if (!utc_seconds(head + 2, cached, cached_days, &seconds)) return 0;
    const u8 *p = b + second;
    if (p[1] != ' ' || p[5] != ' ' || !digit(p[2]) || !digit(p[3]) || !digit(p[4])) return 0;
    i64 status = (p[2] - '0') * 100 + two(p + 3);
    if (status < 100 || status > 599) return 0;
    i64 size = 0, length = size_end - (second + 6);
    if (length < 1 || length > 8) return 0;
    if (!(length == 1 && p[6] == '-'))
        for (i64 i = 0; i < length; i++) {
            if (!digit(p[6 + i])) return 0;
            size = size * 10 + (p[6 + i] - '0');
        }
    i64 limit = s + 56 < first ? s + 56 : first;
    const u8 *space = memchr(b + s, ' ', (size_t)(limit - s));
    if (!space || space == b + s || space[1] != '-' || space[2] != ' ') return 0;
    i64 address_end = space - b;
    if (first - 30 <= address_end + 3) return 0;
    /* Blanks in a user name may be those between other fields. */
    for (i64 i = address_end + 3; i < first - 30; i++)
        if (b[i] <= ' ') return 0;
    i64 row[COLUMNS] = {line, seconds, status, size, s, address_end, address_end + 3, first - 30, first + 1, second};
    if (count == 6) {
        row[10] = quotes[2] + 1;
        row[11] = quotes[3];
        row[12] = quotes[4] + 1;
        row[13] = quotes[5];
    }
    for (int i = 0; i < COLUMNS; i++) out[i * capacity + at] = row[i];
    return 1;
}

/* Split a block into at most `capacity` lines that end with \n: their starts and ends (without line ends), the columns of the
 * regular ones (each `capacity` apart), and the numbers of the others. `counts` are the numbers of regular ones and others. */
void scan_lines(const u8 *b, i64 size, i64 capacity, i64 *starts, i64 *ends, i64 *columns, i64 *others, i64 *counts) {
    i64 line = 0, rows = 0, other = 0, cached_days = 0;
    u8 cached[11];
    memcpy(cached, "01/Jan/1970", 11);
    for (i64 s = 0; s < size && line < capacity; line++) {
        const u8 *end = memchr(b + s, '\n', (size_t)(size - s));
        if (!end) break;
        i64 next = end - b, e = next;
        if (e > s && b[e - 1] == '\r') e--;
        starts[line] = s;
        ends[line] = e;
        if (regular(b, s, e, line, rows, capacity, cached, &cached_days, columns)) rows++;
        else others[other++] = line;
        s = next + 1;
    }
    counts[0] = rows;
    counts[1] = other;
}

/* Parse the texts between starts and ends as dotted quads without leading zeros; `valid` marks those that are one. */
void parse_v4(const u8 *b, const i64 *starts, const i64 *ends, i64 count, uint32_t *addresses, u8 *valid) {
    for (i64 i = 0; i < count; i++) {
        const u8 *p = b + starts[i], *end = b + ends[i];
        uint32_t address = 0;
        int octets = 0, ok = end - p <= 15;
        while (ok) {
            const u8 *begin = p;
            uint32_t value = 0;
            while (p < end && p - begin < 3 && digit(*p)) value = value * 10 + (*p++ - '0');
            ok = p > begin && value < 256 && (*begin != '0' || p - begin == 1);
            address = address << 8 | value;
            if (++octets == 4) break;
            ok = ok && p < end && *p++ == '.';
        }
        valid[i] = ok && p == end;
        addresses[i] = address;
    }
}

static inline u64 word_at(const u8 *p) {
    u64 word;
    memcpy(&word, p, 8);
    return word;
}

/* The first n bytes as a word, at most 8. Reads 8 bytes, up to 7 of them behind the text: in the next line or the padding. */
static inline u64 part(const u8 *p, i64 n) { return n <= 0 ? 0 : n >= 8 ? word_at(p) : word_at(p) & (((u64)1 << 8 * n) - 1); }

static inline u64 mix(u64 a, u64 b) {
    __uint128_t product = (__uint128_t)a * b;
    return (u64)product ^ (u64)(product >> 64);
}

/* 64-bit hashes of texts, keyed by four secret words; never 0, which marks an empty slot. */
void hash_texts(const u8 *b, const i64 *starts, const i64 *ends, i64 count, const u64 *secret, u64 *hashes) {
    for (i64 i = 0; i < count; i++) {
        const u8 *p = b + starts[i];
        i64 n = ends[i] - starts[i];
        u64 state = secret[0] ^ (u64)n;
        for (; n > 16; n -= 16, p += 16) state = mix(word_at(p) ^ secret[1], word_at(p + 8) ^ state);
        u64 low = part(p, n), high = part(p + 8, n - 8);
        state = mix(low ^ secret[1] ^ state, high ^ secret[2]) ^ state;
        state = mix(state ^ secret[3], secret[2]);
        hashes[i] = state ? state : 1;
    }
}

/* Slot of each hash in an open-addressing table of mask + 1 places; -1 where it is not there. */
void find_slots(const u64 *hashes, i64 count, const u64 *table, u64 mask, i64 *slots) {
    for (i64 i = 0; i < count; i++) {
        u64 slot = hashes[i] & mask;
        while (table[slot] != hashes[i] && table[slot]) slot = (slot + 1) & mask;
        slots[i] = table[slot] ? (i64)slot : -1;
    }
}

/* Move rows of chosen countries (of `width` bytes) to `target`, each to the next place of its country; the others move up.
 * Returns how many stay. */
i64 take_rows(u8 *rows, int16_t *countries, i64 count, i64 width, const u8 *chosen, i64 *places, u8 *target) {
    i64 stay = 0;
    for (i64 i = 0; i < count; i++) {
        int16_t country = countries[i];
        if (chosen[country]) {
            memcpy(target + places[country]++ * width, rows + i * width, (size_t)width);
        } else {
            if (stay != i) memcpy(rows + stay * width, rows + i * width, (size_t)width);
            countries[stay++] = country;
        }
    }
    return stay;
}
