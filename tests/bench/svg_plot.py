"""Line and bar charts as SVG, with nothing but the standard library.

    chart = LineChart("Wait of writers", "writers", "p99, ms", x_scale="log", y_scale="log")
    chart.add("fusefs", [(1, 0.2), (4, 0.3), (16, 1.1)])
    chart.write("wait.svg")

    chart = LineChart("Wait over D", "D, ms", "p99, ms", categories=["0", "4", "inf"])
    chart.add("adders", [3.1, 5.0, None])               # one value per category; None: not measured

    chart = BarChart("4 KiB writes", "IOPS", categories=["overwrite", "append"], y_scale="log")
    chart.add("fusefs", [52000, 9000])                  # one value per category

The same data gives the same bytes: documents with plots in them change only when numbers do.
A log scale shows only values above zero; others are left out, as None is.
"""

import math
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 720, 420
MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, MARGIN_BOTTOM = 72, 24, 48, 56
LEGEND_ROW = 20
# Okabe and Ito's colours, which colour-blind people tell apart; lines also differ by their marks.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555", "#a6761d")
GRID, INK = "#dddddd", "#222222"
TICKS_WANTED = 6


def format_value(value):
    """Three digits and a unit of thousands: 0.25, 12, 1.5k, 52k, 3M."""
    if value == 0:
        return "0"
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        # 999.6 rounds to 1000, which is written 1k.
        if abs(value) >= limit * 0.9995:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"


def linear_ticks(low, high):
    """Round numbers, a nice step apart, from at most `low` to at least `high`."""
    step = 10 ** math.floor(math.log10((high - low) / TICKS_WANTED))
    for factor in (1, 2, 2.5, 5, 10):
        if (high - low) / (step * factor) <= TICKS_WANTED:
            step *= factor
            break
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def log_ticks(low, high):
    """Powers of ten around the values; with 2 and 5 between them where there are few."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    last = max(last, first + 1)
    if last - first <= 2:
        ticks = [m * 10.0 ** e for e in range(first, last) for m in (1, 2, 5)]
        return ticks + [10.0 ** last]
    return [10.0 ** e for e in range(first, last + 1)]


class Axis:
    """Where a value lies between two pixels; with its ticks."""

    def __init__(self, scale, values, pixel_low, pixel_high, from_zero=False):
        if scale not in ("linear", "log"):
            raise ValueError(f"no scale is called {scale}")
        self.log = scale == "log"
        values = [v for v in values if self.shows(v)] or [1]
        low, high = min(values), max(values)
        if self.log:
            self.ticks = log_ticks(low, high)
        else:
            low = min(low, 0) if from_zero else low
            if low == high:
                low, high = (min(low, 0), max(high, 1)) if from_zero else (low - 1, high + 1)
            self.ticks = linear_ticks(low, high)
        self.low, self.high = self.ticks[0], self.ticks[-1]
        self.pixel_low, self.pixel_high = pixel_low, pixel_high

    def shows(self, value):
        return value is not None and math.isfinite(value) and (not self.log or value > 0)

    def at(self, value):
        if self.log:
            part = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            part = (value - self.low) / (self.high - self.low)
        return self.pixel_low + part * (self.pixel_high - self.pixel_low)


class Chart:
    """Title, legend, frame and axes; what is inside is drawn by the two kinds of chart."""

    def __init__(self, title, x_label, y_label, y_scale, categories):
        self.title, self.x_label, self.y_label, self.y_scale = title, x_label, y_label, y_scale
        self.categories = None if categories is None else [str(c) for c in categories]
        self.series = []

    def add(self, name, values):
        values = list(values)
        if self.categories is not None and len(values) != len(self.categories):
            raise ValueError(f"{name}: {len(values)} values for {len(self.categories)} categories")
        self.series.append((name, values))
        return self

    def write(self, path):
        with open(path, "w", encoding="utf-8") as out:
            out.write(self.svg())

    def svg(self):
        self._out = []
        legend = self._legend_places()
        rows = 1 + max((row for _, row in legend), default=-1)
        self.left, self.right = MARGIN_LEFT, WIDTH - MARGIN_RIGHT
        self.top, self.bottom = MARGIN_TOP + rows * LEGEND_ROW, HEIGHT - MARGIN_BOTTOM
        self._text(WIDTH / 2, 26, self.title, size=16, anchor="middle", bold=True)
        for i, (x, row) in enumerate(legend):
            y = MARGIN_TOP + row * LEGEND_ROW - 4
            self._legend_mark(i, x + 8, y - 4)
            self._text(x + 22, y, self.series[i][0])
        self._y_axis()
        self._x_axis()
        self._data()
        self._line(self.left, self.bottom, self.right, self.bottom, INK)
        self._line(self.left, self.top, self.left, self.bottom, INK)
        self._text((self.left + self.right) / 2, HEIGHT - 12, self.x_label, anchor="middle")
        middle = (self.top + self.bottom) / 2
        self._text(18, middle, self.y_label, anchor="middle", turned=True)
        head = (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
                f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">')
        background = f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>'
        return "\n".join([head, background] + self._out + ["</svg>"]) + "\n"

    # Names flow from left to right; a letter is about seven pixels wide.
    def _legend_places(self):
        if len(self.series) < 2:
            return []
        places, x, row = [], MARGIN_LEFT, 0
        for name, _ in self.series:
            width = 40 + 7 * len(name)
            if x + width > WIDTH - MARGIN_RIGHT and x > MARGIN_LEFT:
                x, row = MARGIN_LEFT, row + 1
            places.append((x, row))
            x += width
        return places

    def _y_axis(self):
        values = [y for _, points in self.series for y in self._y_values(points)]
        values += self._y_extra(values)
        self.y = Axis(self.y_scale, values, self.bottom, self.top, from_zero=True)
        for tick in self.y.ticks:
            y = self.y.at(tick)
            self._line(self.left, y, self.right, y, GRID)
            self._text(self.left - 8, y + 4, format_value(tick), anchor="end")

    @staticmethod
    def _y_extra(values):
        """What the axis shows besides the values."""
        return []

    def _category_x(self, index):
        return self.left + (index + 0.5) * (self.right - self.left) / len(self.categories)

    def _category_axis(self):
        for i, name in enumerate(self.categories):
            self._text(self._category_x(i), self.bottom + 18, name, anchor="middle")

    def _line(self, x1, y1, x2, y2, colour):
        self._out.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
                         f'stroke="{colour}"/>')

    def _rect(self, x, y, width, height, colour):
        self._out.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" '
                         f'height="{height:.1f}" fill="{colour}"/>')

    def _text(self, x, y, text, size=None, anchor="start", bold=False, turned=False):
        style = f' font-size="{size}"' if size else ""
        style += ' font-weight="bold"' if bold else ""
        style += f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
        self._out.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" '
                         f'fill="{INK}"{style}>{escape(str(text))}</text>')

    @staticmethod
    def _colour(index):
        return COLOURS[index % len(COLOURS)]


class LineChart(Chart):
    """Series of points joined by lines. A value that is left out leaves a gap in the line."""

    def __init__(self, title, x_label, y_label, x_scale="linear", y_scale="linear",
                 categories=None):
        super().__init__(title, x_label, y_label, y_scale, categories)
        self.x_scale = x_scale

    def _y_values(self, points):
        return points if self.categories is not None else [y for _, y in points]

    def _x_axis(self):
        if self.categories is not None:
            self._category_axis()
            return
        xs = sorted({x for _, points in self.series for x, _ in points})
        self.x = Axis(self.x_scale, xs, self.left, self.right)
        # A few measured places are better ticks than round numbers.
        for tick in xs if 0 < len(xs) <= 2 * TICKS_WANTED else self.x.ticks:
            if self.x.shows(tick):
                self._text(self.x.at(tick), self.bottom + 18, format_value(tick), anchor="middle")

    def _data(self):
        for index, (_, points) in enumerate(self.series):
            run, runs = [], []
            for i, point in enumerate(points):
                x, y = (i, point) if self.categories is not None else point
                if self.y.shows(y) and (self.categories is not None or self.x.shows(x)):
                    px = self._category_x(i) if self.categories is not None else self.x.at(x)
                    run.append((px, self.y.at(y)))
                elif run:
                    runs.append(run)
                    run = []
            for run in runs + ([run] if run else []):
                path = " ".join(f"{x:.1f},{y:.1f}" for x, y in run)
                self._out.append(f'<polyline points="{path}" fill="none" stroke-width="2" '
                                 f'stroke="{self._colour(index)}"/>')
                for x, y in run:
                    self._mark(index, x, y)

    def _legend_mark(self, index, x, y):
        self._mark(index, x, y)

    def _mark(self, index, x, y):
        colour = self._colour(index)
        corners = {1: ((-4, -4), (4, -4), (4, 4), (-4, 4)), 2: ((0, -5), (5, 4), (-5, 4)),
                   3: ((0, -5), (5, 0), (0, 5), (-5, 0))}.get(index % 4)
        if corners is None:
            self._out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>')
            return
        path = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
        self._out.append(f'<polygon points="{path}" fill="{colour}"/>')


class BarChart(Chart):
    """Groups of bars side by side, one bar per series, with its value above it."""

    def __init__(self, title, y_label, categories, x_label="", y_scale="linear"):
        super().__init__(title, x_label, y_label, y_scale, categories)

    @staticmethod
    def _y_values(values):
        return values

    # On a log scale the smallest bar has a height, too.
    def _y_extra(self, values):
        shown = [v for v in values if v is not None and math.isfinite(v) and v > 0]
        return [min(shown) / 2] if shown and self.y_scale == "log" else []

    def _x_axis(self):
        self._category_axis()

    def _data(self):
        group = (self.right - self.left) / len(self.categories)
        bar = 0.8 * group / max(len(self.series), 1)
        floor = self.y.at(max(self.y.low, 0) if not self.y.log else self.y.low)
        for index, (_, values) in enumerate(self.series):
            for i, value in enumerate(values):
                if not self.y.shows(value):
                    continue
                x = self.left + (i + 0.1) * group + index * bar
                y = self.y.at(value)
                self._rect(x, min(y, floor), bar * 0.94, abs(floor - y), self._colour(index))
                if bar >= 22:
                    self._text(x + bar * 0.47, min(y, floor) - 4, format_value(value), size=10,
                               anchor="middle")

    def _legend_mark(self, index, x, y):
        self._rect(x - 5, y - 5, 10, 10, self._colour(index))
