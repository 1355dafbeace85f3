//! What a page is painted on: letters with where they stand, and enough of the rest to tell whether they are seen.

use std::collections::BTreeMap;

use hayro_interpret::{
    BlendMode, ClipPath, Device, DrawMode, DrawProps, Image, ImageDrawProps, Paint, SoftMask,
    font::{Glyph, GlyphRun},
    hayro_cmap::BfString,
    kurbo::{Affine, BezPath, Point, Rect, Shape},
};

use super::Hidden;

/// Letters are outlined on a square of so many units.
const EM: f64 = 1000.0;
/// Letters smaller than this are not read by people, in units of 1/72 inch.
const TINY: f64 = 2.0;
/// How far apart two colours are at least that can be told apart, from 0 to 1.
const CONTRAST: f32 = 0.08;
/// What lets less than this through hides nothing, and what covers less is not seen.
const FAINT: f32 = 0.05;
/// How much of a page a picture fills that is a scan.
const SCAN: f64 = 0.5;
/// Grounds that are remembered of a page; and letters times things painted over them that are compared.
const GROUNDS: usize = 4096;
const COMPARED: usize = 50_000_000;

/// Letters that were painted at once, in one line and equally visible.
#[derive(Clone, Debug)]
pub struct Run {
    pub text: String,
    pub hidden: Option<Hidden>,
    /// Where the first letter stands, where the last one ends, and how large they are.
    start: Point,
    end: Point,
    size: f64,
    /// What was there before it, for a gap between two is a blank and a step a line.
    gap: Gap,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gap {
    None,
    Blank,
    Line,
}

impl Run {
    /// Adds its text to that of runs before it.
    pub fn append_to(&self, text: &mut String) {
        match self.gap {
            _ if text.is_empty() || text.ends_with('\n') => {}
            Gap::None => {}
            Gap::Blank => text.push(' '),
            Gap::Line => text.push('\n'),
        }
        text.push_str(&self.text);
    }
}

/// The colour of an area; none if it is many.
struct Ground {
    area: Rect,
    colour: Option<[f32; 3]>,
}

/// One page.
pub struct Canvas {
    view: Rect,
    runs: Vec<Run>,
    grounds: Vec<Ground>,
    clips: Vec<Rect>,
    /// How much each open group lets through, and whether it does nothing else.
    groups: Vec<(f32, bool)>,
    compared: usize,
    /// Letters, and those among them that no character stands for.
    pub letters: usize,
    pub unknown: usize,
    has_scan: bool,
}

impl Canvas {
    /// A white page of which `view` is shown.
    pub fn new(view: Rect) -> Self {
        Self {
            view,
            runs: Vec::new(),
            grounds: Vec::new(),
            clips: Vec::new(),
            groups: Vec::new(),
            compared: 0,
            letters: 0,
            unknown: 0,
            has_scan: false,
        }
    }

    /// What was written, in the order of painting.
    pub fn into_runs(self) -> Vec<Run> {
        let mut runs = self.runs;
        if self.has_scan {
            for run in &mut runs {
                if matches!(run.hidden, Some(Hidden::Unpainted | Hidden::Covered)) {
                    run.hidden = Some(Hidden::Scanned);
                }
            }
        }
        // Gaps are between runs that are seen alike, whatever was painted between them.
        let mut last: BTreeMap<Option<Hidden>, usize> = BTreeMap::new();
        for at in 0..runs.len() {
            let Some(run) = runs.get(at) else { continue };
            let before = last.insert(run.hidden, at).and_then(|before| runs.get(before));
            let gap =
                before.map_or(Gap::None, |before| gap(before.end, run.start, before.size.max(run.size)));
            if let Some(run) = runs.get_mut(at) {
                run.gap = gap;
            }
        }
        runs
    }

    /// Whether letters at `place` of `size` in this paint are seen, and if not, why.
    fn hidden(&self, place: Point, size: f64, paint: &Paint<'_>, mode: &DrawMode) -> Option<Hidden> {
        if matches!(mode, DrawMode::Invisible) {
            return Some(Hidden::Unpainted);
        }
        if size < TINY {
            return Some(Hidden::Tiny);
        }
        let reach = size.min(72.0);
        let is_near = |area: &Rect| area.inflate(reach, reach).contains(place);
        if !is_near(&self.view) || !self.clips.iter().all(is_near) {
            return Some(Hidden::Outside);
        }
        let Paint::Color(colour) = paint else { return None };
        let [r, g, b, alpha] = colour.to_rgba().components();
        if alpha * self.through() < FAINT {
            return Some(Hidden::Colour);
        }
        let ground = self.grounds.iter().rev().find(|ground| ground.area.contains(place));
        let below = ground.map_or(Some([1.0; 3]), |ground| ground.colour)?;
        let apart = [r, g, b].iter().zip(below).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        (apart < CONTRAST).then_some(Hidden::Colour)
    }

    /// Something opaque was painted over `area`; in what colour, if it is one.
    fn cover(&mut self, area: Rect, colour: Option<[f32; 3]>) {
        let area = self.clips.iter().fold(area, |area, clip| area.intersect(*clip));
        if area.is_zero_area() {
            return;
        }
        self.compared = self.compared.saturating_add(self.runs.len());
        if self.compared <= COMPARED {
            for run in &mut self.runs {
                if run.hidden.is_none() && area.contains(run.start) && area.contains(run.end) {
                    run.hidden = Some(Hidden::Covered);
                }
            }
        }
        self.ground(area, colour);
    }

    /// From now on letters in `area` stand on `colour`, or on one that is not known.
    fn ground(&mut self, area: Rect, colour: Option<[f32; 3]>) {
        if area.is_zero_area() {
            return;
        }
        // With too many, the newest are what letters stand on.
        if self.grounds.len() >= GROUNDS {
            self.grounds.drain(..GROUNDS / 2);
        }
        self.grounds.push(Ground { area, colour });
    }

    /// How much of what is painted the open groups let through.
    fn through(&self) -> f32 {
        self.groups.iter().map(|(opacity, _)| opacity).product()
    }

    /// Whether paint covers what is below it.
    fn is_plain(&self, mode: BlendMode, mask: Option<&SoftMask<'_>>) -> bool {
        mode == BlendMode::Normal && mask.is_none() && self.groups.iter().all(|(_, plain)| *plain)
    }
}

/// What is between two letters of one `size`, the first of which ends where the second might start.
fn gap(end: Point, start: Point, size: f64) -> Gap {
    let (along, across) = ((start.x - end.x).abs(), (start.y - end.y).abs());
    match along.min(across) {
        // Neither in a line nor in a column.
        both if both > size * 0.5 => Gap::Line,
        _ if along > size * 3.0 || across > size * 0.5 => Gap::Line,
        _ if along > size * 0.15 => Gap::Blank,
        _ => Gap::None,
    }
}

/// How many units of the page a letter's square is high and wide, the smaller of both.
fn size_of(transform: Affine) -> f64 {
    let [a, b, c, d, ..] = transform.as_coeffs();
    a.hypot(b).min(c.hypot(d)) * EM
}

impl<'a> Device<'a> for Canvas {
    fn draw_path(&mut self, path: &BezPath, props: DrawProps<'a>, mode: &DrawMode) {
        if !matches!(mode, DrawMode::Fill(_) | DrawMode::FillAndStroke(..)) {
            return;
        }
        // Not a rectangle: what lies in it may show or not. Letters on it can be of any colour.
        let area = props.transform.transform_rect_bbox(path.bounding_box());
        self.ground(area, None);
    }

    fn draw_rect(&mut self, rect: &Rect, props: DrawProps<'a>, mode: &DrawMode) {
        if !matches!(mode, DrawMode::Fill(_) | DrawMode::FillAndStroke(..)) {
            return;
        }
        let area = props.transform.transform_rect_bbox(*rect);
        let colour = match &props.paint {
            Paint::Color(colour) => colour.to_rgba().components(),
            Paint::Pattern(_) => return self.ground(area, None),
        };
        let [r, g, b, alpha] = colour;
        let through = alpha * self.through();
        if self.is_plain(props.blend_mode, props.soft_mask.as_ref()) && through > 1.0 - FAINT {
            self.cover(area, Some([r, g, b]));
        } else if through > FAINT {
            self.ground(area, None);
        }
    }

    fn push_clip_path(&mut self, clip: &ClipPath) {
        self.clips.push(clip.path.bounding_box());
    }

    fn push_clip_rect(&mut self, rect: &Rect) {
        self.clips.push(*rect);
    }

    fn push_transparency_group(&mut self, opacity: f32, mask: Option<SoftMask<'a>>, mode: BlendMode) {
        self.groups.push((opacity, mode == BlendMode::Normal && mask.is_none()));
    }

    fn draw_glyph_run(&mut self, glyphs: &GlyphRun<'_, 'a>, props: DrawProps<'a>, mode: &DrawMode) {
        let before = self.runs.len();
        for glyph in glyphs.glyphs() {
            let transform = props.transform * glyph.transform();
            let (start, size) = (transform * Point::ZERO, size_of(transform));
            let width = match &**glyph {
                Glyph::Outline(outline) => outline.advance_width().map_or(EM * 0.5, f64::from),
                Glyph::Type3(_) => EM * 0.5,
            };
            let end = transform * Point::new(width, 0.0);
            self.letters += 1;
            let letter = match glyph.as_unicode() {
                Some(BfString::Char(c)) => c.to_string(),
                Some(BfString::String(letters)) => letters,
                None => {
                    self.unknown += 1;
                    char::REPLACEMENT_CHARACTER.to_string()
                }
            };
            let hidden = self.hidden(start, size, &props.paint, mode);
            // Filled and stroked letters come twice.
            if matches!(mode, DrawMode::Stroke(_)) && self.is_twin(before, start, &letter) {
                continue;
            }
            let joins = |run: &Run| run.hidden == hidden && (run.size - size).abs() < size * 0.1;
            let fresh = self.runs.len() == before;
            match self.runs.last_mut().filter(|run| !fresh && joins(run)) {
                Some(run) => {
                    match gap(run.end, start, size) {
                        Gap::None => {}
                        Gap::Blank if run.text.ends_with(' ') || letter == " " => {}
                        Gap::Blank => run.text.push(' '),
                        Gap::Line => run.text.push('\n'),
                    }
                    run.text.push_str(&letter);
                    run.end = end;
                }
                None => self.runs.push(Run { text: letter, hidden, start, end, size, gap: Gap::None }),
            }
        }
    }

    fn draw_image(&mut self, image: Image<'a, '_>, props: ImageDrawProps<'a>) {
        let square = Rect::new(0.0, 0.0, f64::from(image.width()), f64::from(image.height()));
        let area = props.transform.transform_rect_bbox(square);
        let shown = area.intersect(self.view);
        self.has_scan |= shown.area() > self.view.area() * SCAN;
        let is_opaque = match &image {
            Image::Raster(raster) => {
                let dict = raster.stream().dict();
                !dict.contains_key("SMask") && !dict.contains_key("Mask")
            }
            Image::Stencil(_) => false,
        };
        let is_plain = self.is_plain(props.blend_mode, props.soft_mask.as_ref());
        if is_opaque && is_plain && self.through() > 1.0 - FAINT {
            self.cover(area, None);
        } else {
            self.ground(area, None);
        }
    }

    fn pop_clip(&mut self) {
        self.clips.pop();
    }

    fn pop_transparency_group(&mut self) {
        self.groups.pop();
    }
}

impl Canvas {
    /// Whether `letter` was painted just there before, by a run that is not one of this painting.
    fn is_twin(&self, before: usize, start: Point, letter: &str) -> bool {
        let earlier = self.runs.get(..before).and_then(<[Run]>::last);
        earlier.is_some_and(|run| {
            run.text.contains(letter)
                && start.x >= run.start.x.min(run.end.x) - 0.1
                && start.x <= run.start.x.max(run.end.x) + 0.1
                && (start.y - run.start.y).abs() < 0.1
        })
    }
}
