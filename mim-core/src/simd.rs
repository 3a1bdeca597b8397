//! Loops over image bytes, compiled for every instruction set and dispatched at run time.
//!
//! The loops are plain code that the compiler vectorises by itself. Everything they call must be
//! `#[inline(always)]`, to be compiled for the same instruction set. None of them fuses multiplication and
//! addition, so every machine gives the same bytes.

/// Pixels whose channels are separated at a time: one AVX-512 register of bytes per channel.
pub(crate) const LANES: usize = 64;

/// Defines a function whose body is compiled for AVX-512, AVX2 and the baseline; each call uses
/// the widest that the CPU supports. All references share the named lifetime.
macro_rules! simd_dispatch {
    (
        $(#[$meta:meta])*
        $vis:vis fn $name:ident<$life:lifetime>($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block
    ) => {
        $(#[$meta])*
        $vis fn $name<$life>($($arg: $ty),*) $(-> $ret)? {
            // A struct, not a closure: the compiler need not inline closures.
            struct Call<$life> { $($arg: $ty),* }
            impl<$life> ::pulp::NullaryFnOnce for Call<$life> {
                type Output = $crate::simd::simd_dispatch!(@output $($ret)?);
                #[inline(always)]
                fn call(self) -> Self::Output {
                    let Self { $($arg),* } = self;
                    $body
                }
            }
            ::pulp::Arch::new().dispatch(Call { $($arg),* })
        }
    };
    (@output) => { () };
    (@output $ret:ty) => { $ret };
}
pub(crate) use simd_dispatch;

/// A function of one RGB pixel. Not a closure, which the compiler need not inline.
pub(crate) trait PixelMap {
    /// Maps a pixel; implementations must be `#[inline(always)]` and free of branches.
    fn map(&self, pixel: [u8; 3]) -> [u8; 3];
}

/// Applies `map` to every pixel; for bodies of [`simd_dispatch!`].
#[inline(always)]
pub(crate) fn map_pixels(pixels: &mut [u8], map: &impl PixelMap) {
    let (blocks, rest) = pixels.as_chunks_mut::<3>().0.as_chunks_mut::<LANES>();
    for block in blocks {
        let [mut red, mut green, mut blue] = channels(block);
        for lane in 0..LANES {
            [red[lane], green[lane], blue[lane]] = map.map([red[lane], green[lane], blue[lane]]);
        }
        for lane in 0..LANES {
            block[lane] = [red[lane], green[lane], blue[lane]];
        }
    }
    for pixel in rest {
        *pixel = map.map(*pixel);
    }
}

/// Separates the channels of some pixels.
#[inline(always)]
pub(crate) fn channels(pixels: &[[u8; 3]; LANES]) -> [[u8; LANES]; 3] {
    let mut channels = [[0; LANES]; 3];
    for lane in 0..LANES {
        for channel in 0..3 {
            channels[channel][lane] = pixels[lane][channel];
        }
    }
    channels
}

/// The integer part of a number from 0 to 255. A saturating cast would not be vectorised.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the low byte is wanted")]
pub(crate) fn whole_f32(value: f32) -> u8 {
    /// From this value on, the last bit of an f32 is worth 1.
    const ONES: f32 = 8_388_608.;
    (value.floor() + ONES).to_bits() as u8
}

/// The integer part of a number from 0 to 255.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the low byte is wanted")]
pub(crate) fn whole_f64(value: f64) -> u8 {
    /// From this value on, the last bit of an f64 is worth 1.
    const ONES: f64 = 4_503_599_627_370_496.;
    (value.floor() + ONES).to_bits() as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Turn;

    impl PixelMap for Turn {
        #[inline(always)]
        fn map(&self, [red, green, blue]: [u8; 3]) -> [u8; 3] {
            [green, blue, red ^ 255]
        }
    }

    simd_dispatch! {
        fn turn<'a>(pixels: &'a mut [u8]) {
            map_pixels(pixels, &Turn);
        }
    }

    #[test]
    fn every_pixel_is_mapped_for_any_count() {
        for count in [1usize, 63, 64, 65, 200] {
            let bytes: Vec<u8> = (0..=255).cycle().take(count * 3).collect();
            let mut turned = bytes.clone();
            turn(&mut turned);
            for (new, old) in turned.chunks(3).zip(bytes.chunks(3)) {
                assert_eq!(new, [old[1], old[2], old[0] ^ 255]);
            }
        }
    }

    #[test]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the test compares with casts"
    )]
    fn integer_parts_match_casts() {
        for step in 0..=2550u16 {
            let value = f64::from(step) / 10.;
            assert_eq!(whole_f64(value), value as u8);
            assert_eq!(whole_f32(value as f32), value as f32 as u8);
        }
        assert_eq!(whole_f64(84.999_999_999_999_99), 84);
        assert_eq!(whole_f32(254.999_98), 254);
    }
}
