/* CRC-32C against the vectors of RFC 3720, appendix B.4, and others that are known. */
#include "tests/support/support.h"

#include <string.h>

#include "kernels/core/crc32c.h"

static void the_known_vectors(void **state)
{
    (void)state;
    uint8_t zeros[32], ones[32], up[32], down[32];
    for (int i = 0; i < 32; i++) {
        zeros[i] = 0;
        ones[i] = 0xFF;
        up[i] = (uint8_t)i;
        down[i] = (uint8_t)(31 - i);
    }
    /* An iSCSI Read (10) command. */
    static const uint8_t command[48] = {
        0x01, 0xC0, [16] = 0x14, [22] = 4, [27] = 0x14, [31] = 0x18, [32] = 0x28, [40] = 0x02
    };
    assert_int_equal(crc32c(zeros, 32), 0x8A9136AA);
    assert_int_equal(crc32c(ones, 32), 0x62A8AB43);
    assert_int_equal(crc32c(up, 32), 0x46DD794E);
    assert_int_equal(crc32c(down, 32), 0x113FDB5C);
    assert_int_equal(crc32c(command, 48), 0xD9963A56);
    assert_int_equal(crc32c("123456789", 9), 0xE3069283);
    assert_int_equal(crc32c("a", 1), 0xC1D04330);
    assert_int_equal(crc32c("", 0), 0);
    assert_int_equal(crc32c(NULL, 0), 0);
}

static void a_masked_one_is_turned_and_shifted(void **state)
{
    (void)state;
    assert_int_equal(crc32c_masked("", 0), 0xA282EAD8);
    const uint32_t crc = 0xE3069283; /* of "123456789": its low 15 bits go to the top */
    assert_int_equal(crc32c_masked("123456789", 9),
                     (uint32_t)((crc >> 15) + (crc << 17) + 0xA282EAD8));
    /* The length of a record of 24 bytes, as every file of TensorBoard with the version
     * "brain.Event:2" begins: 18 00 .. 00 a3 7f 4b 22. */
    assert_int_equal(crc32c_masked("\x18\0\0\0\0\0\0\0", 8), 0x224B7FA3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_known_vectors),
        cmocka_unit_test(a_masked_one_is_turned_and_shifted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
